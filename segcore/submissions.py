"""Labels as the servers of test sets take them: their names, their values, their archive."""

import tarfile
import zipfile
from collections.abc import Iterable
from io import BytesIO
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import UInt8
from PIL import Image
from torch import Tensor

from segcore.datasets import Dataset
from segcore.errors import InputError, suggestion
from segcore.files import written_whole
from segcore.types import IGNORE, ClassTable


class Form(NamedTuple):
    """What a server expects of a file: raw ids or palette indices, below a folder."""

    folder: str = ""
    replaced: tuple[str, str] = ("", "")
    """The end of an image's name, and what stands there in a result's."""
    palette: bool = False
    archive: str = ".zip"


FORMS = {
    # cityscapesScripts finds a result by the start of its name, city_sequence_frame
    "cityscapes": Form(replaced=("_leftImg8bit", "_labelIds")),
    # the development kit's tree, section 5.3
    "voc2012": Form("results/VOC2012/Segmentation/comp6_test_cls", palette=True, archive=".tgz"),
    "ade20k": Form(),
    "lip": Form(),
}


def form_of(dataset: str) -> Form:
    """Raises InputError where no server is known."""
    if dataset not in FORMS:
        raise InputError(f"no test server is known for {dataset!r}{suggestion(dataset, FORMS)}")
    return FORMS[dataset]


def write_submission(
    form: Form,
    dataset: Dataset,
    results: Iterable[tuple[str, UInt8[Tensor, "h w"]]],
    path: Path,
) -> int:
    """Packs (image's name, train ids) one by one into ``path``; returns how many there were.

    Raises InputError where a label has no raw id, or two images have one name.
    """
    raw_ids, seen = raw_ids_of(dataset), set[str]()
    with written_whole(path) as aside, _Archive(aside, form.archive) as archive:
        for name, labels in results:
            end, other = form.replaced
            place = f"{form.folder}/{name.removesuffix(end)}{other}.png".removeprefix("/")
            if place in seen:
                raise InputError(f"two images are called {name}; put each test set in one folder")
            seen.add(place)
            archive.add(place, _png(raw_ids[labels.numpy()], dataset.classes, form.palette))
    return len(seen)


def raw_ids_of(dataset: Dataset) -> UInt8[np.ndarray, "256"]:
    """Train id -> the raw id that the dataset's own label files have for it."""
    table = np.full(256, IGNORE, np.uint8)
    for raw in sorted(dataset.known, reverse=True):
        if raw < IGNORE and (train := int(dataset.train_ids[raw])) != IGNORE:
            table[train] = raw
    return table


def _png(ids: UInt8[np.ndarray, "h w"], classes: ClassTable, palette: bool) -> bytes:
    image = Image.fromarray(ids)
    if palette:
        colours = np.zeros((256, 3), np.uint8)
        colours[: len(classes)] = classes.colours
        image = image.convert("P")
        image.putpalette(colours.tobytes())
    image.save(file := BytesIO(), "PNG")
    return file.getvalue()


class _Archive:
    """A zip or a gzipped tar file."""

    def __init__(self, path: Path, kind: str) -> None:
        self.file: tarfile.TarFile | zipfile.ZipFile
        if kind == ".tgz":
            self.file = tarfile.open(path, "w:gz")  # noqa: SIM115 -- closed by __exit__
        else:
            self.file = zipfile.ZipFile(path, "w")  # PNGs do not get any smaller

    def add(self, name: str, content: bytes) -> None:
        if isinstance(self.file, zipfile.ZipFile):
            self.file.writestr(zipfile.ZipInfo(name), content)
            return
        entry = tarfile.TarInfo(name)
        entry.size = len(content)
        self.file.addfile(entry, BytesIO(content))

    def __enter__(self) -> "_Archive":
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()
