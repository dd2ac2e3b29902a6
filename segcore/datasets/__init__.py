"""What the raw files of each dataset mean. One file and one class table (CSV) per dataset;
the file's name is the dataset's name."""

import csv
import inspect
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from segcore.errors import InputError, suggestion
from segcore.types import IGNORE, ClassTable

__all__ = ["Dataset", "Pair", "build_dataset", "list_datasets", "read_class_table"]


class Pair(NamedTuple):
    """One sample before preparation: its name and where its two files lie."""

    id: str
    image: Path
    label: Path


class Dataset:
    """What a dataset file states: its classes, its splits, and how its files belong together.

    A subclass sets the attributes below and the methods; its constructor's keywords are the
    dataset's options in ``params.yaml``.
    """

    classes: ClassTable
    train_ids: UInt8[np.ndarray, "256"]
    """Raw label value -> train id or IGNORE."""
    known: frozenset[int]
    """Raw label values that may occur; any other is refused by ``prepare``."""
    split_sizes: dict[str, int]
    """Images per published split; checked by ``prepare``."""
    home: str = ""
    """Where a person reads about the data and gets it."""
    licence: str = ""

    def read_labels(self, path: Path) -> UInt8[np.ndarray, "h w"]:
        """The train ids of a label file: an index image, read as indices (palette or grey).

        Raises InputError that names the file and the values that are no raw label, with counts.
        """
        with Image.open(path) as image:
            if image.mode not in ("L", "P"):
                raise InputError(f"{path}: an index image was expected, this one is {image.mode}")
            raw = np.asarray(image)
        counts = np.bincount(raw.ravel(), minlength=256)
        found = np.flatnonzero(counts).tolist()
        stray = {value: int(counts[value]) for value in found if value not in self.known}
        if stray:
            listed = ", ".join(f"{value} ({count} pixels)" for value, count in stray.items())
            raise InputError(f"{path}: label values outside the class table: {listed}")
        return self.train_ids[raw]

    def acquire(self, raw: Path, drop: Path) -> None:
        """Brings the raw files below ``raw``, from the drop folder or by making them.

        Raises InputError where they cannot be had; says where to get them."""
        raise NotImplementedError  # every dataset has its own

    def pairs(self, raw: Path) -> dict[str, list[Pair]]:
        """The samples of every split, in a fixed order. Raises InputError on missing files."""
        raise NotImplementedError  # every dataset has its own


def list_datasets() -> list[str]:
    return sorted(module.name for module in iter_modules(__path__))


def build_dataset(form: str, options: dict[str, Any]) -> Dataset:
    """Raises InputError on an unknown dataset or option."""
    if form not in list_datasets():
        raise InputError(f"no dataset {form!r}{suggestion(form, list_datasets())}")
    module = import_module(f"{__name__}.{form}")
    (class_name,) = module.__all__
    build: Callable[..., Dataset] = getattr(module, class_name)
    known = set(inspect.signature(build).parameters)
    for option in options:
        if option not in known:
            raise InputError(f"dataset {form} has no option {option!r}{suggestion(option, known)}")
    try:
        return build(**options)
    except TypeError as error:
        raise InputError(f"dataset {form}: {error}") from None


def read_class_table(name: str) -> tuple[ClassTable, UInt8[np.ndarray, "256"], frozenset[int]]:
    """The class table of a dataset, its raw-to-train map, and the raw ids that may occur.

    Columns: train_id (255: ignored), name, red, green, blue, raw_ids (blank-separated), and
    optionally mirror, the name of the class that this one becomes in a mirrored image.
    """
    with (Path(__file__).parent / f"{name}.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    train_ids = np.full(256, IGNORE, np.uint8)
    known = set[int]()
    for row in rows:
        raw = [int(value) for value in row["raw_ids"].split()]
        train_ids[raw] = int(row["train_id"])
        known.update(raw)
    classes = [row for row in rows if int(row["train_id"]) != IGNORE]
    names = tuple(row["name"] for row in classes)
    colours = tuple((int(row["red"]), int(row["green"]), int(row["blue"])) for row in classes)
    mirror = tuple(names.index(row.get("mirror") or row["name"]) for row in classes)
    return ClassTable(names, colours, mirror), train_ids, frozenset(known)
