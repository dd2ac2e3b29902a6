"""``voc2012``: PASCAL VOC 2012 with the additional labels of SBD, 20 classes and background.

Everingham et al.: The PASCAL Visual Object Classes Challenge, IJCV 111 (2015). Hariharan et al.:
Semantic contours from inverse detectors, ICCV 2011 (SBD), whose own split has images of VOC's
``val`` in its ``train``: they are taken out here.
"""

from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from segcore.acquisition.archives import Archive
from segcore.datasets import Dataset, Pair, read_class_table, read_stems
from segcore.formats.matlab import label_map, read_matlab

__all__ = ["VOC2012"]

IMAGES = Archive(
    "VOCtrainval_11-May-2012.tar",
    urls=(
        "https://thor.robots.ox.ac.uk/pascal/VOC/voc2012/VOCtrainval_11-May-2012.tar",
        "http://host.robots.ox.ac.uk/pascal/VOC/voc2012/VOCtrainval_11-May-2012.tar",
    ),
    size=1999639040,
    checksum="sha256:e14f763270cf193d0b5f74b169f44157a4b0c6efa708f4dd0ff78ee691763bcb",
    trees=("VOCdevkit/VOC2012",),
)
ADDITIONS = Archive(
    "benchmark.tgz",
    urls=(
        "https://www2.eecs.berkeley.edu/Research/Projects/CS/vision/grouping/"
        "semantic_contours/benchmark.tgz",
    ),
    checksum="sha1:7129e0a480c2d6afb02b517bb18ac54283bfaa35",
    trees=("benchmark_RELEASE/dataset",),
)


class VOC2012(Dataset):
    """Trains on ``trainaug``: VOC's and SBD's training and SBD's validation images, less VOC's
    ``val``. An image of VOC's ``train`` keeps the label that VOC drew.

    ``additions=False``: the 1,464 images of VOC's ``train`` alone.
    """

    home = "http://host.robots.ox.ac.uk/pascal/VOC/voc2012/"
    licence = "images: Flickr's terms of use; none is stated for the labels of SBD"

    def __init__(self, additions: bool = True) -> None:
        self.classes, self.train_ids, self.known = read_class_table("voc2012")
        self.additions = additions
        self.archives = (IMAGES, ADDITIONS) if additions else (IMAGES,)
        self.split_sizes = {"train": 10582 if additions else 1464, "val": 1449}

    def pairs(self, raw: Path) -> dict[str, list[Pair]]:
        voc, sbd = raw / "VOCdevkit/VOC2012", raw / "benchmark_RELEASE/dataset"
        train, val = (
            read_stems(voc / f"ImageSets/Segmentation/{split}.txt") for split in ("train", "val")
        )
        labels = {stem: voc / f"SegmentationClass/{stem}.png" for stem in (*train, *val)}
        if self.additions:
            more = read_stems(sbd / "train.txt") + read_stems(sbd / "val.txt")
            labels = {stem: sbd / f"cls/{stem}.mat" for stem in more} | labels
        of_val = set(val)
        splits = {"train": sorted(labels.keys() - of_val), "val": sorted(of_val)}
        return {
            split: [Pair(stem, voc / f"JPEGImages/{stem}.jpg", labels[stem]) for stem in stems]
            for split, stems in splits.items()
        }

    def read_labels(self, path: Path) -> UInt8[np.ndarray, "h w"]:
        if path.suffix != ".mat":
            return super().read_labels(path)
        drawn = read_matlab(path, "GTcls")["GTcls"]
        fields = drawn.dtype.names or ()
        raw = drawn["Segmentation"].item() if "Segmentation" in fields else drawn
        return self.look_up(str(path), label_map(path, raw))
