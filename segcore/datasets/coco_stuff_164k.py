"""``coco_stuff_164k``: all of COCO 2017 with every pixel labelled, 171 things and stuffs.

Caesar, Uijlings, Ferrari: COCO-Stuff: thing and stuff classes in context, CVPR 2018. Ids are one
less than those of the 10K set: here 0 is a person and 255 not labelled.
"""

from pathlib import Path

from segcore.acquisition.archives import Archive
from segcore.datasets import Dataset, Pair, read_class_table
from segcore.formats.coco import IMAGES_2017

__all__ = ["COCOStuff164K"]

LABELS = Archive(
    "stuffthingmaps_trainval2017.zip",
    urls=(
        "http://calvin.inf.ed.ac.uk/wp-content/uploads/data/cocostuffdataset/"
        "stuffthingmaps_trainval2017.zip",
    ),
    folder="stuffthingmaps",
    trees=("train2017", "val2017"),
)


class COCOStuff164K(Dataset):
    """Images lie in ``train2017`` and ``val2017``, labels in folders of these names below
    ``stuffthingmaps``."""

    home = "https://github.com/nightrome/cocostuff"
    licence = "labels: CC BY 4.0; images: Flickr's terms of use"

    def __init__(self) -> None:
        self.classes, self.train_ids, self.known = read_class_table("coco_stuff_164k")
        self.archives = (*IMAGES_2017, LABELS)
        self.split_sizes = {"train": 118287, "val": 5000}

    def pairs(self, raw: Path) -> dict[str, list[Pair]]:
        """No list is published: whatever has a label is a sample."""
        folders = {split: f"{split}2017" for split in self.split_sizes}
        return {
            split: [
                Pair(label.stem, raw / folder / f"{label.stem}.jpg", label)
                for label in sorted((raw / "stuffthingmaps" / folder).glob("[!.]*.png"))
            ]
            for split, folder in folders.items()
        }
