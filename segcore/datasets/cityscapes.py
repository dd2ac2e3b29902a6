"""``cityscapes``: street scenes of 50 cities, 2048 by 1024 pixels, 19 classes.

Cordts et al.: The Cityscapes dataset for semantic urban scene understanding, CVPR 2016.
"""

from pathlib import Path

from segcore.acquisition.archives import Archive
from segcore.datasets import Dataset, Pair, read_class_table

__all__ = ["Cityscapes"]

FILES = "https://www.cityscapes-dataset.com/file-handling/?packageID="
FINE = (
    Archive(
        "gtFine_trainvaltest.zip",
        urls=(f"{FILES}1",),
        checksum="sha1:99f532cb1af174f5fcc4c5bc8feea8c66246ddbc",
        strict=False,
        trees=("gtFine/train", "gtFine/val"),
        package="gtFine_trainvaltest.zip",
    ),
    Archive(
        "leftImg8bit_trainvaltest.zip",
        urls=(f"{FILES}3",),
        checksum="sha1:2c0b77ce9933cc635adda307fbba5566f5d9d404",
        strict=False,
        trees=("leftImg8bit/train", "leftImg8bit/val"),
        package="leftImg8bit_trainvaltest.zip",
    ),
)
COARSE = (
    Archive(
        "gtCoarse.zip",
        urls=(f"{FILES}2",),
        trees=("gtCoarse/train_extra",),
        package="gtCoarse.zip",
    ),
    Archive(
        "leftImg8bit_trainextra.zip",
        urls=(f"{FILES}4",),
        trees=("leftImg8bit/train_extra",),
        package="leftImg8bit_trainextra.zip",
    ),
)


class Cityscapes(Dataset):
    """The finely labelled images, by the account of a person who accepted the terms.

    ``labelIds.png`` holds ids 0 to 33; the negative id of licence plates is never drawn. The
    test split is left out: its published labels are dummies, so that none can score on them.

    ``coarse``: adds the split ``train_extra``, 19,998 images with coarse labels.
    """

    home = "https://www.cityscapes-dataset.com"
    licence = "non-commercial use only; the data and modified copies must not be passed on"
    redistribution = False

    def __init__(self, coarse: bool = False) -> None:
        self.classes, self.train_ids, self.known = read_class_table("cityscapes")
        self.split_sizes = {"train": 2975, "val": 500}
        self.archives = FINE
        if coarse:
            self.split_sizes["train_extra"] = 19998
            self.archives += COARSE

    def pairs(self, raw: Path) -> dict[str, list[Pair]]:
        found = dict[str, list[Pair]]()
        for split in self.split_sizes:
            kind = "gtCoarse" if split == "train_extra" else "gtFine"
            images = sorted((raw / "leftImg8bit" / split).glob("*/[!.]*_leftImg8bit.png"))
            found[split] = []
            for image in images:
                stem = image.stem.removesuffix("_leftImg8bit")
                city = raw / kind / split / image.parent.name
                found[split].append(Pair(stem, image, city / f"{stem}_{kind}_labelIds.png"))
        return found
