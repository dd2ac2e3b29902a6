"""PASCAL Context's files, which its forms of 59 and of 60 classes read alike.

Mottaghi et al.: The role of context for object detection and semantic segmentation in the wild,
CVPR 2014. Images are those of VOC 2010; labels are the authors' ``.mat`` maps of 459 ids.
"""

from pathlib import Path

import numpy as np
from jaxtyping import Integer

from segcore.acquisition.archives import Archive
from segcore.formats.matlab import label_map, read_matlab

HOME = "https://www.cs.stanford.edu/~roozbeh/pascal-context/"
LICENCE = "images: Flickr's terms of use; none is stated for the labels"
SPLIT_SIZES = {"train": 4998, "val": 5105}
ARCHIVES = (
    Archive(
        "VOCtrainval_03-May-2010.tar",
        urls=(
            "https://thor.robots.ox.ac.uk/pascal/VOC/voc2010/VOCtrainval_03-May-2010.tar",
            "http://host.robots.ox.ac.uk/pascal/VOC/voc2010/VOCtrainval_03-May-2010.tar",
        ),
        checksum="sha1:bf9985e9f2b064752bf6bd654d89f017c76c395a",
        trees=("VOCdevkit/VOC2010",),
    ),
    Archive(
        "trainval.tar.gz",
        urls=(
            "https://roozbehm.info/pascal-context/trainval.tar.gz",
            "https://www.cs.stanford.edu/~roozbeh/pascal-context/trainval.tar.gz",
        ),
        trees=("trainval",),
    ),
)


def lists_of(raw: Path) -> dict[str, Path]:
    """The list of each split's images: that of all tasks, as the list of VOC's segmentation task
    names a fifth of them."""
    folder = raw / "VOCdevkit/VOC2010/ImageSets/Main"
    return {split: folder / f"{split}.txt" for split in SPLIT_SIZES}


def files_of(raw: Path, stem: str) -> tuple[str, Path, Path]:
    """A sample's name, its image and its label."""
    image = raw / f"VOCdevkit/VOC2010/JPEGImages/{stem}.jpg"
    return stem, image, raw / f"trainval/{stem}.mat"


def read_label_map(path: Path) -> Integer[np.ndarray, "h w"]:
    return label_map(path, read_matlab(path, "LabelMap")["LabelMap"])
