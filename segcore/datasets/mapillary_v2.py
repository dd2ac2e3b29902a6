"""``mapillary_v2``: the images of ``mapillary_v1`` labelled anew with 124 classes.

Neuhold et al.: The Mapillary Vistas dataset, ICCV 2017; labels 2.0 of 2021.
"""

from pathlib import Path

from segcore.datasets import Dataset, Pair, read_class_table
from segcore.errors import InputError
from segcore.formats import mapillary
from segcore.types import IGNORE, ClassTable

__all__ = ["MapillaryV2"]


class MapillaryV2(Dataset):
    """The labels ``v2.0`` of its package: palette images, by index.

    ``unlabeled``: ``class`` counts the last of the 124, "Unlabeled", as MMSegmentation does;
    ``ignore`` leaves 123, for a mean over things that are there.
    """

    home, licence, redistribution = mapillary.HOME, mapillary.LICENCE, False
    archives, split_sizes = mapillary.ARCHIVES, mapillary.SPLIT_SIZES

    def __init__(self, unlabeled: str = "class") -> None:
        self.classes, self.train_ids, self.known = read_class_table("mapillary_v2")
        if unlabeled not in ("class", "ignore"):
            text = f"unlabeled: {unlabeled!r} is neither class nor ignore"
            raise InputError(f"dataset mapillary_v2: {text}")
        if unlabeled == "ignore":
            table, last = self.classes, len(self.classes) - 1
            self.classes = ClassTable(table.names[:-1], table.colours[:-1], table.mirror[:-1])
            self.train_ids[last] = IGNORE

    def pairs(self, raw: Path) -> dict[str, list[Pair]]:
        found = mapillary.files_of(raw, "v2.0/labels")
        return {split: [Pair(*files) for files in samples] for split, samples in found.items()}
