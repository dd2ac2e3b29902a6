"""``oxford_pet``: cats and dogs of 37 breeds: pet, background and the border between them.

Parkhi, Vedaldi, Zisserman, Jawahar: Cats and dogs, CVPR 2012.
"""

import hashlib
from pathlib import Path

from segcore.acquisition.archives import Archive
from segcore.datasets import Dataset, Pair, read_class_table
from segcore.errors import InputError
from segcore.formats.lists import lines_of
from segcore.types import IGNORE, ClassTable

__all__ = ["OxfordPet"]

HOSTS = (
    "https://thor.robots.ox.ac.uk/~vgg/data/pets",
    "https://www.robots.ox.ac.uk/~vgg/data/pets/data",
)
EVERY = 10
"""One in so many images of the published ``trainval`` is for validation."""


class OxfordPet(Dataset):
    """The two archives of the publisher.

    Its split ``trainval`` (3,680) is divided, since no validation split is published: every
    tenth image, the images of a breed in the order of their names' hashes, is ``val``.

    ``classes``: 3 for pet, background, border; 2 for background and pet, the border ignored.
    A score says little without this number.
    """

    home = "https://www.robots.ox.ac.uk/~vgg/data/pets/"
    licence = "CC BY-SA 4.0"
    archives = (
        Archive(
            "images.tar.gz",
            urls=tuple(f"{host}/images.tar.gz" for host in HOSTS),
            size=791918971,
            checksum="sha256:67195c5e1c01f1ab5f9b6a5d22b8c27a580d896ece458917e61d459337fa318d",
            trees=("images",),
        ),
        Archive(
            "annotations.tar.gz",
            urls=tuple(f"{host}/annotations.tar.gz" for host in HOSTS),
            size=19173078,
            checksum="sha256:52425fb6de5c424942b7626b428656fcbd798db970a937df61750c0f1d358e91",
            trees=("annotations",),
        ),
    )

    def __init__(self, classes: int = 3) -> None:
        self.classes, self.train_ids, self.known = read_class_table("oxford_pet")
        if classes not in (2, 3):
            raise InputError(f"dataset oxford_pet: classes: {classes} is neither 2 nor 3")
        if classes == 2:
            (pet, background, _), (red, black, _) = self.classes.names, self.classes.colours
            self.classes = ClassTable((background, pet), (black, red), (0, 1))
            self.train_ids[[1, 2, 3]] = 1, 0, IGNORE
        self.split_sizes = {"train": 3312, "val": 368, "test": 3669}

    def pairs(self, raw: Path) -> dict[str, list[Pair]]:
        tree = raw / "annotations"
        trainval = sorted(read_list(tree / "trainval.txt"))
        found = {
            "train": [stem for n, (*_, stem) in enumerate(trainval) if n % EVERY],
            "val": [stem for *_, stem in trainval[::EVERY]],
            "test": [stem for *_, stem in read_list(tree / "test.txt")],
        }
        images, labels = raw / "images", tree / "trimaps"
        return {
            split: [
                Pair(stem, images / f"{stem}.jpg", labels / f"{stem}.png") for stem in sorted(stems)
            ]
            for split, stems in found.items()
        }


def read_list(path: Path) -> list[tuple[int, str, str]]:
    """Breed, hash and stem of each line, which is ``stem breed species number``."""
    found = list[tuple[int, str, str]]()
    for number, line in lines_of(path, "annotations.tar.gz holds it"):
        if line.startswith("#"):
            continue
        if len(columns := line.split()) != 4 or not columns[1].isdecimal():
            raise InputError(f"{path}, line {number}: image, breed, ... expected, got {line!r}")
        digest = hashlib.sha256(columns[0].encode()).hexdigest()
        found.append((int(columns[1]), digest, columns[0]))
    return found
