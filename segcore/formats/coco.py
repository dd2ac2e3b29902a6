"""MS COCO's files: its images of 2017, and instances drawn as polygons or written as runs."""

import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Integer

from segcore.acquisition.archives import Archive
from segcore.errors import InputError

IMAGES_2017 = (
    Archive(
        "train2017.zip",
        urls=("http://images.cocodataset.org/zips/train2017.zip",),
        size=19336861798,
        checksum="sha256:69a8bb58ea5f8f99d24875f21416de2e9ded3178e903f1f7603e283b9e06d929",
        trees=("train2017",),
    ),
    Archive(
        "val2017.zip",
        urls=("http://images.cocodataset.org/zips/val2017.zip",),
        size=815585330,
        checksum="sha256:4f7e2ccb2866ec5041993c9cf2a952bbed69647b115d0f74da7ce8f4bef82f05",
        trees=("val2017",),
    ),
)

FINER = 5
"""COCO walks along outlines on a grid that is finer by this factor."""
MOST_STEPS = 1 << 24
"""Of such a walk; more lead far out of any image."""


class Instance(NamedTuple):
    """One object: polygons as flat lists x, y, x, y, ..., or runs: ``{"counts": ...}``."""

    category: int
    segmentation: Any


class Annotated(NamedTuple):
    """One image and its objects, in the order of the file."""

    file_name: str
    height: int
    width: int
    instances: list[Instance]


def read_instances(path: Path, categories: frozenset[int]) -> list[Annotated]:
    """The images of an annotation file, sorted by name, with their objects of ``categories``.

    Objects of other categories are dropped and polygons packed while the file is parsed: as plain
    Python lists, half a gigabyte of annotations would take several.
    """

    def packed(entry: dict[str, Any]) -> Any:
        if "segmentation" not in entry:
            return entry
        if entry["category_id"] not in categories:
            return None
        outlined = entry["segmentation"]
        if isinstance(outlined, list):
            outlined = [np.array(polygon, np.float64) for polygon in outlined]
        elif not isinstance(outlined["counts"], list | str):
            raise TypeError("counts must be a list or a string")
        return entry["image_id"], Instance(entry["category_id"], outlined)

    try:
        with path.open(encoding="utf-8") as file:
            content = json.load(file, object_hook=packed)
        images = {
            image["id"]: Annotated(
                Path(image["file_name"]).name, image["height"], image["width"], []
            )
            for image in content["images"]
        }
        for image_id, instance in filter(None, content["annotations"]):
            images[image_id].instances.append(instance)
    except FileNotFoundError:
        raise InputError(f"{path} is missing") from None
    except (ValueError, KeyError, TypeError) as error:
        remedy = "bring it again"
        raise InputError(f"{path} is no whole COCO annotation file ({error!r}); {remedy}") from None
    return sorted(images.values(), key=lambda image: image.file_name)


def draw_instance(segmentation: Any, height: int, width: int) -> Bool[np.ndarray, "h w"]:
    """The pixels of one object. Raises ValueError where its runs do not fit the image."""
    if isinstance(segmentation, dict):
        return decode_runs(segmentation["counts"], height, width)
    mask = np.zeros((height, width), np.bool_)
    for polygon in segmentation:
        mask |= fill_polygon(np.asarray(polygon, np.float64).reshape(-1, 2), height, width)
    return mask


def decode_runs(counts: list[int] | str, height: int, width: int) -> Bool[np.ndarray, "h w"]:
    """Runs of outside and inside in turn, outside first, down the columns, then to the right.

    A string is COCO's packed form of the same. Raises ValueError where they do not fit.
    """
    runs = unpack_runs(counts) if isinstance(counts, str) else counts
    if min(runs, default=0) < 0 or sum(runs) != height * width:
        raise ValueError(f"runs of {sum(runs)} pixels do not fit an image of {width}x{height}")
    inside = np.arange(len(runs)) % 2 == 1
    return np.repeat(inside, runs).reshape(width, height).T


def unpack_runs(packed: str) -> list[int]:
    """COCO's string of runs: five bits to a character from ``0`` on, the least first, the sixth
    bit where more follow; from the fourth run on, the difference to the last but one."""
    runs, value, shift = list[int](), 0, 0
    for code in (ord(character) - ord("0") for character in packed):
        value |= (code & 31) << shift
        shift += 5
        if code & 32:
            continue
        if code & 16:  # the highest bit is the sign
            value -= 1 << shift
        runs.append(value + runs[-2] if len(runs) > 2 else value)
        value = shift = 0
    return runs


def fill_polygon(
    points: Float[np.ndarray, "points 2"], height: int, width: int
) -> Bool[np.ndarray, "h w"]:
    """The pixels inside a polygon (x, y), pixel for pixel as COCO's own tools draw it.

    Where the outline passes a column's middle, the column changes between outside and inside.
    """
    x, y = outline(points)
    left = np.where(x[1:] < x[:-1], x[1:], x[1:] - 1) - FINER // 2
    top = np.minimum(y[1:], y[:-1]) - FINER // 2
    column, row = left // FINER, (-(-top // FINER)).clip(0, height)
    middle = (x[1:] != x[:-1]) & (left % FINER == 0) & (column >= 0) & (column < width)
    changes = (column * height + row)[middle]
    flat = np.zeros(width * height + 1, np.bool_)
    if len(changes):
        first = changes.min()
        passed = np.bincount(changes - first).cumsum()
        flat[first : first + len(passed)] = passed % 2
    return flat[:-1].reshape(width, height).T


def outline(
    points: Float[np.ndarray, "points 2"],
) -> tuple[Integer[np.ndarray, "steps"], Integer[np.ndarray, "steps"]]:
    """A closed walk along a polygon, in steps of one on the finer grid.

    An edge is walked from its lesser end, as rounding depends on it, then turned round. Raises
    ValueError where that leads nowhere.
    """
    if not np.abs(np.diff(points, axis=0)).sum() < MOST_STEPS / FINER:  # nor where one is no number
        raise ValueError("its outline leads far out of the image")
    starts = np.trunc(FINER * points + 0.5)
    ends = np.roll(starts, -1, axis=0)
    steps = np.abs(ends - starts).max(1).astype(np.int64)
    edges = np.arange(len(points))
    # Along x where an edge is flat or a diagonal, along y where it is steep.
    axis = np.abs(ends - starts).argmax(1)
    turned = (starts > ends)[edges, axis, None]
    starts, ends = np.where(turned, ends, starts), np.where(turned, starts, ends)
    slope = (ends - starts) / np.maximum(steps, 1)[:, None]

    edge = np.repeat(edges, steps + 1)
    step = np.arange(len(edge)) - np.repeat(np.cumsum(steps + 1) - steps - 1, steps + 1)
    step = np.where(turned[edge, 0], steps[edge] - step, step)[:, None]
    x, y = np.trunc(starts[edge] + slope[edge] * step + 0.5).astype(np.int64).T
    return x, y
