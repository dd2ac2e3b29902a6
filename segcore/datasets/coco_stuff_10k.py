"""``coco_stuff_10k``: 10,000 images of COCO with every pixel labelled, 171 things and stuffs.

Caesar, Uijlings, Ferrari: COCO-Stuff: thing and stuff classes in context, CVPR 2018; version 1.1.
The benchmark's test images are ``val`` here. All images are part of COCO's train2014: never
train on COCO-Stuff 164K to report on these.
"""

from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from segcore.acquisition.archives import Archive
from segcore.datasets import Dataset, Pair, read_class_table, read_stems
from segcore.errors import InputError
from segcore.formats.matlab import label_map, read_matlab

__all__ = ["COCOStuff10K"]

WITHOUT_MASKS = (12, 26, 29, 30, 45, 66, 68, 69, 71, 83, 91)
"""Ids of things that nobody drew."""
NAMES_OF_VERSION_1 = 172


class COCOStuff10K(Dataset):
    """Ids 1 to 91 are things and 92 to 182 stuff; 0, and things that nobody drew, are ignored."""

    home = "https://github.com/nightrome/cocostuff10k"
    licence = "labels: CC BY 4.0; images: Flickr's terms of use"

    def __init__(self) -> None:
        self.classes, self.train_ids, self.known = read_class_table("coco_stuff_10k")
        self.split_sizes = {"train": 9000, "val": 1000}
        base = "http://calvin.inf.ed.ac.uk/wp-content/uploads/data/cocostuffdataset"
        name = "cocostuff-10k-v1.1.zip"
        trees = ("images", "annotations", "imageLists")
        self.archives = (Archive(name, urls=(f"{base}/{name}",), trees=trees),)

    def pairs(self, raw: Path) -> dict[str, list[Pair]]:
        lists = {"train": "train.txt", "val": "test.txt"}
        return {
            split: [
                Pair(stem, raw / f"images/{stem}.jpg", raw / f"annotations/{stem}.mat")
                for stem in sorted(read_stems(raw / "imageLists" / name))
            ]
            for split, name in lists.items()
        }

    def read_labels(self, path: Path) -> UInt8[np.ndarray, "h w"]:
        """Raises InputError on a file of version 1.0, too, whose ids mean other classes."""
        found = read_matlab(path, "S", "names")
        raw = label_map(path, found["S"])
        old = np.size(found.get("names", ())) == NAMES_OF_VERSION_1
        if old and np.isin(raw, WITHOUT_MASKS).any():
            remedy = f"bring {self.archives[0].name}"
            raise InputError(f"{path} is of version 1.0, which numbers classes otherwise; {remedy}")
        return self.look_up(str(path), raw)
