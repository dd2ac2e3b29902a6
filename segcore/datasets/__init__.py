"""What the raw files of each dataset mean. One file and one class table (CSV) per dataset;
the file's name is the dataset's name."""

import csv
import inspect
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules
from typing import Any, Literal, NamedTuple

import numpy as np
from jaxtyping import Integer, UInt8

from segcore.acquisition import bring
from segcore.acquisition.archives import Archive
from segcore.acquisition.watch import NOBODY, Listener
from segcore.errors import InputError, suggestion
from segcore.formats.image_files import opened_label
from segcore.formats.lists import lines_of
from segcore.types import IGNORE, ClassTable

__all__ = [
    "Dataset",
    "Pair",
    "build_dataset",
    "list_datasets",
    "read_class_table",
    "read_stems",
]

SHOWN_VALUES = 10
"""Of those that are in no class table."""


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
    train_ids: UInt8[np.ndarray, "raw"]
    """Raw label value -> train id or IGNORE; 256 entries, or more where raw values need them."""
    known: frozenset[int]
    """Raw label values that may occur; any other is refused by ``prepare``."""
    split_sizes: dict[str, int]
    """Images per published split; checked by ``prepare``."""
    copies_across_splits: Literal["tell", "refuse"] = "tell"
    """What ``prepare`` does about a picture in two splits; published splits are as they are."""
    missing_files: Literal["refuse", "leave"] = "refuse"
    """Whether ``download`` refuses where a raw file is missing, or leaves it to ``prepare``, which
    tells it with all else that is wrong."""
    problems: Sequence[str] = ()
    """What is wrong with the raw files but does not show in any pair; told by ``prepare``."""
    home: str = ""
    """Where a person reads about the data and gets it."""
    licence: str = ""
    redistribution: bool = True
    """Whether the prepared copy may be passed on; else it goes to private storage only."""
    archives: tuple[Archive, ...] = ()
    """What it is published as; none where it is made, or lies with the user."""

    def read_labels(self, path: Path) -> UInt8[np.ndarray, "h w"]:
        """The train ids of a label file: an index image, read as indices (palette or grey).

        Raises InputError that names the file and the values that are no raw label, with counts.
        """
        file = opened_label(path)
        mode = file.image.mode
        if mode not in ("1", "L", "P") and not mode.startswith("I"):  # 1: one bit per pixel
            raise InputError(f"{path}: an index image was expected, this one is {mode}")
        return self.look_up(str(path), file.indices())

    def look_up(self, place: str, raw: Integer[np.ndarray, "h w"]) -> UInt8[np.ndarray, "h w"]:
        """The train ids of raw label values. Raises InputError as ``read_labels`` does."""
        values, counts = counted_values(raw)
        pixels = dict(zip(values.tolist(), counts.tolist(), strict=True))
        if stray := [value for value in pixels if value not in self.known]:
            shown = stray[:SHOWN_VALUES]
            listed = ", ".join(f"{value} ({pixels[value]} pixels)" for value in shown)
            more = f" and {len(stray) - len(shown)} more" if len(stray) > len(shown) else ""
            raise InputError(f"{place}: label values outside the class table: {listed}{more}")
        return self.train_ids[raw]

    def acquire(self, raw: Path, drop: Path, listener: Listener = NOBODY) -> None:
        """Brings the raw files below ``raw``: ``archives``, from the drop folder or the network.

        A dataset that is made, not fetched, has its own. Raises InputError where they cannot be
        had; says where to get them.
        """
        bring(self.archives, raw, drop, self.home, listener)

    def pairs(self, raw: Path) -> dict[str, list[Pair]]:
        """The samples of every split, in a fixed order. Raises InputError on missing files."""
        raise NotImplementedError  # every dataset has its own

    def notes(self, raw: Path) -> list[str]:
        """What somebody should know of the raw files though it is no problem: files left out."""
        return []


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


def counted_values(
    raw: Integer[np.ndarray, "h w"],
) -> tuple[Integer[np.ndarray, "values"], Integer[np.ndarray, "values"]]:
    """The values of a label map and the pixels of each; bytes are counted without sorting."""
    if raw.dtype != np.uint8:
        return np.unique(raw, return_counts=True)
    counts = np.bincount(raw.ravel(), minlength=256)
    return np.flatnonzero(counts), counts[counts > 0]


def read_stems(path: Path) -> list[str]:
    """The names in a published list: the first word of each line. Raises InputError where it is
    missing or names nothing."""
    lines = lines_of(path, "complete the raw files")
    if not (stems := [line.split()[0] for _, line in lines]):
        raise InputError(f"{path} names no image; replace it by the published list")
    return stems


def read_class_table(name: str) -> tuple[ClassTable, UInt8[np.ndarray, "raw"], frozenset[int]]:
    """The class table of a dataset, its raw-to-train map, and the raw ids that may occur.

    Columns: train_id (255: ignored), name, red, green, blue, raw_ids (blank-separated), and
    optionally mirror, the name of the class that this one becomes in a mirrored image.
    """
    with (Path(__file__).parent / f"{name}.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    train_id_of = {int(raw): int(row["train_id"]) for row in rows for raw in row["raw_ids"].split()}
    train_ids = np.full(max(256, *(raw + 1 for raw in train_id_of)), IGNORE, np.uint8)
    train_ids[list(train_id_of)] = list(train_id_of.values())
    classes = [row for row in rows if int(row["train_id"]) != IGNORE]
    names = tuple(row["name"] for row in classes)
    colours = tuple((int(row["red"]), int(row["green"]), int(row["blue"])) for row in classes)
    mirror = tuple(names.index(row.get("mirror") or row["name"]) for row in classes)
    return ClassTable(names, colours, mirror), train_ids, frozenset(train_id_of)
