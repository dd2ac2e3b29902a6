"""``mapillary_v2``: the images of ``mapillary_v1`` labelled anew with 124 classes.

Neuhold et al.: The Mapillary Vistas dataset, ICCV 2017; labels 2.0 of 2021.
"""

from pathlib import Path

from segcore.acquisition.archives import Archive
from segcore.datasets import Dataset, Pair, read_class_table
from segcore.errors import InputError
from segcore.types import IGNORE, ClassTable

__all__ = ["MapillaryV2"]


class MapillaryV2(Dataset):
    """The labels ``v2.0`` of its package: palette images, by index.

    ``unlabeled``: ``class`` counts the last of the 124, "Unlabeled", as MMSegmentation does;
    ``ignore`` leaves 123, for a mean over things that are there.
    """

    home = "https://www.mapillary.com/dataset/vistas"
    licence = "research edition: its own licence, which bars commercial use"
    redistribution = False
    archives = (Archive("*", trees=("training", "validation")),)

    def __init__(self, unlabeled: str = "class") -> None:
        self.classes, self.train_ids, self.known = read_class_table("mapillary_v2")
        if unlabeled not in ("class", "ignore"):
            text = f"unlabeled: {unlabeled!r} is neither class nor ignore"
            raise InputError(f"dataset mapillary_v2: {text}")
        if unlabeled == "ignore":
            table, last = self.classes, len(self.classes) - 1
            self.classes = ClassTable(table.names[:-1], table.colours[:-1], table.mirror[:-1])
            self.train_ids[last] = IGNORE
        self.split_sizes = {"train": 18000, "val": 2000}

    def pairs(self, raw: Path) -> dict[str, list[Pair]]:
        tree = next(iter(sorted(raw.glob("*/training"))), raw / "training").parent
        found = dict[str, list[Pair]]()
        for split, folder in ("train", "training"), ("val", "validation"):
            images = sorted((tree / folder / "images").glob("[!.]*.jpg"))
            labels = tree / folder / "v2.0/labels"
            found[split] = [Pair(path.stem, path, labels / f"{path.stem}.png") for path in images]
        return found
