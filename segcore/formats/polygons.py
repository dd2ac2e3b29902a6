"""Labels that were outlined: polygons in JSON, after Cityscapes or after COCO, -> train ids.

Objects are drawn in the order of the file, the later over the earlier.
"""

import json
from collections import Counter, defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, TypeVar

import numpy as np
from annotated_types import Ge, Le, MinLen
from jaxtyping import UInt8
from PIL import Image, ImageDraw
from pydantic import BaseModel, BeforeValidator, FiniteFloat, ValidationError

from segcore.errors import InputError, in_one_list
from segcore.formats.coco import draw_instance
from segcore.formats.image_files import require_size

T = TypeVar("T", bound=BaseModel)
Side = Annotated[int, Ge(1), Le(1 << 16)]
FAR = 1 << 20
"""Pixels; what lies farther out is no place in an image."""
Place = Annotated[int, Ge(-FAR), Le(FAR)] | Annotated[FiniteFloat, Ge(-FAR), Le(FAR)]
"""Kept apart: what is written again must read the same."""


class Runs(BaseModel):
    """COCO's other form, for what one outline cannot say."""

    counts: list[int] | str
    size: tuple[Side, Side]


def without_lines(given: Any) -> Any:
    """Without outlines of fewer than three points, which cover nothing: some tools write a box,
    or nothing at all, where there is no outline."""
    if not isinstance(given, list):
        return given
    if len(given) <= 4 and not any(isinstance(part, list) for part in given):
        return []
    return [part for part in given if not isinstance(part, list) or len(part) >= 6]


Outlines = Annotated[list[list[Place]], BeforeValidator(without_lines)]


class Object(BaseModel):
    """One thing in an image: Cityscapes' ``polygon`` or COCO's ``segmentation``."""

    label: str
    polygon: Annotated[list[tuple[Place, Place]], MinLen(3)] | None = None
    segmentation: Outlines | Runs | None = None
    deleted: bool = False


class Outlined(BaseModel):
    """The file of one image, as Cityscapes lays it beside the labels (``*_polygons.json``)."""

    imgHeight: Side  # noqa: N815
    imgWidth: Side  # noqa: N815
    objects: list[Object]


class Photo(BaseModel):
    id: int | str
    file_name: str
    height: Side
    width: Side


class Annotation(BaseModel):
    image_id: int | str
    category_id: int
    segmentation: Outlines | Runs


class Category(BaseModel):
    id: int
    name: str


class Annotations(BaseModel):
    """COCO's one file for many images."""

    images: list[Photo]
    annotations: list[Annotation]
    categories: list[Category]


def draw(path: Path, train_id_of: Mapping[str, int], background: int) -> UInt8[np.ndarray, "h w"]:
    """The train ids of one image's file; ``background`` where no object is.

    A Cityscapes polygon covers its outline, as Pillow and cityscapesScripts fill it; a COCO
    segmentation covers the pixels that COCO's tools give it. Raises InputError that names the
    file, and objects of no class with counts.
    """
    outlined = read(path, Outlined)
    objects = [thing for thing in outlined.objects if not thing.deleted]
    if unknown := Counter(thing.label for thing in objects if thing.label not in train_id_of):
        listed = ", ".join(f"{name!r} ({count} objects)" for name, count in unknown.most_common(5))
        raise InputError(f"{path}: add these names to classes or ignore: {listed}")
    require_size(str(path), outlined.imgWidth, outlined.imgHeight)
    image = Image.new("L", (outlined.imgWidth, outlined.imgHeight), background)
    drawing = ImageDraw.Draw(image)
    for number, thing in enumerate(objects):
        value = train_id_of[thing.label]
        if thing.polygon is not None:
            drawing.polygon(thing.polygon, fill=value)
        elif thing.segmentation is not None:
            image.paste(value, mask=_mask(path, number, thing.segmentation, image))
        else:
            raise InputError(f"{path}: object {number} ({thing.label}) has no polygon; outline it")
    return np.asarray(image)


def _mask(path: Path, number: int, segmentation: list[Any] | Runs, image: Image.Image) -> Any:
    try:
        return Image.fromarray(draw_instance(as_json(segmentation), image.height, image.width))
    except ValueError as error:
        raise InputError(f"{path}: object {number}: {error}; outline it again") from None


def as_json(segmentation: list[Any] | Runs) -> Any:
    return segmentation.model_dump() if isinstance(segmentation, Runs) else segmentation


def split_annotations(path: Path, images: Mapping[Path, Path]) -> int:
    """Writes what COCO's file ``path`` says of each image into a file of its own for ``draw``;
    returns how many objects of the file have no outline.

    ``images``: image -> the file to write. An image is known by the end of its path that
    ``file_name`` gives, or by its name alone where that is one image's. Raises InputError that
    lists the images of which the file says nothing.
    """
    content = read(path, Annotations)
    names = {category.id: category.name for category in content.categories}
    objects = defaultdict[Any, list[Any]](list)
    for number, entry in enumerate(content.annotations):
        if entry.category_id not in names:
            problem = f"annotation {number} has category {entry.category_id}, which is not listed"
            raise InputError(f"{path}: {problem}; complete its categories")
        outline = as_json(entry.segmentation)
        objects[entry.image_id].append({"label": names[entry.category_id], "segmentation": outline})
    photos = defaultdict[str, list[Photo]](list)
    for photo in content.images:
        photos[Path(photo.file_name).name].append(photo)
    chosen = {image: _photos_of(image, photos[image.name]) for image in images}
    if problems := [_problem(image, fits) for image, fits in chosen.items() if len(fits) != 1]:
        first, *others = problems
        head = f"{path}: {first}; correct file_name, or narrow the images"
        raise InputError(in_one_list(head, others))
    for image, target in images.items():
        (photo,) = chosen[image]
        outlined = {"imgHeight": photo.height, "imgWidth": photo.width}
        target.parent.mkdir(parents=True, exist_ok=True)
        text = json.dumps({**outlined, "objects": objects[photo.id]}, ensure_ascii=False)
        target.write_text(text + "\n", encoding="utf-8")
    return sum(not entry.segmentation for entry in content.annotations)


def _photos_of(image: Path, photos: list[Photo]) -> list[Photo]:
    place = f"/{image.as_posix()}"
    return [p for p in photos if place.endswith(f"/{p.file_name.lstrip('./')}")] or photos


def _problem(image: Path, photos: list[Photo]) -> str:
    have = f"has {len(photos)} entries" if photos else "is not"
    return f"{image} {have} in its images"


def read(path: Path, model: type[T]) -> T:
    """A JSON file as ``model``. Raises InputError that names the file and the first bad place."""
    try:
        return model.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        raise InputError(f"{path} is missing; add it, or correct the pattern of labels") from None
    except ValidationError as error:
        problems = error.errors(include_url=False)
        place = ".".join(map(str, problems[0]["loc"])) or "the file"
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        raise InputError(f"{path}: {place}: {problems[0]['msg']}{more}; correct it") from None
