"""VOC's tar and SBD's tgz, whose own lists leak: VOC's ``val`` is in SBD's ``train``, too."""

from pathlib import Path

import numpy as np
from scipy.io import savemat
from scipy.sparse import csc_matrix

from tests.datasets.miniatures import (
    VOID,
    Expected,
    pack,
    resource_fork,
    write,
    write_index,
    write_lines,
    write_photo,
)

LISTS = {"train": ["2007_000032", "2007_000039"], "val": ["2007_000033", "2011_003276"]}
SBD_LISTS = {
    "train": ["2008_000002", "2007_000033", "2007_000032"],
    "val": ["2008_000003", "2011_003276"],
}
TRAINAUG = ["2007_000032", "2007_000039", "2008_000002", "2008_000003"]


def build(folder: Path) -> Expected:
    tree = folder / "unpacked"
    voc, sbd = tree / "VOCdevkit/VOC2012", tree / "benchmark_RELEASE/dataset"
    drawn, more = dict[str, np.ndarray](), dict[str, np.ndarray]()
    for number, stem in enumerate([*TRAINAUG, *LISTS["val"]]):
        height, width, grey = 40 + number, 50 - number, number == 1
        write_photo(
            voc / f"JPEGImages/{stem}.jpg", height, width, seed=number, mode="L" if grey else "RGB"
        )
        values = np.random.default_rng(number).integers(0, 21, (height, width))
        values[:, -2:] = VOID  # the border of an object
        more[stem] = np.where(values == VOID, 0, values)[::-1]
        drawn[stem] = values if number else np.full_like(values, VOID)
    for split, stems in LISTS.items():
        write_lines(voc / f"ImageSets/Segmentation/{split}.txt", stems)
        for stem in stems:
            write_index(voc / f"SegmentationClass/{stem}.png", drawn[stem], palette=True)
    write_photo(voc / "JPEGImages/2012_004331.jpg", 9, 9)  # of no list, as most of VOC's images
    for split, stems in SBD_LISTS.items():
        write_lines(sbd / f"{split}.txt", stems)
        for stem in stems:
            write_mat(sbd / f"cls/{stem}.mat", more[stem])
    resource_fork(sbd / "cls/2008_000002.mat")
    write(tree / "benchmark_RELEASE/README", "SBD")
    pack(folder / "packed/VOCtrainval_11-May-2012.tar", tree, "VOCdevkit")
    pack(folder / "packed/benchmark.tgz", tree, "benchmark_RELEASE")
    train = {stem: (drawn if stem in LISTS["train"] else more)[stem] for stem in TRAINAUG}
    return Expected({"train": train, "val": {stem: drawn[stem] for stem in LISTS["val"]}})


def write_mat(path: Path, values: np.ndarray) -> None:
    """``GTcls``: the label map, the sparse outlines of each class, which classes are there."""
    boundaries = np.empty((20, 1), object)
    for row in range(20):
        boundaries[row, 0] = csc_matrix(values == row + 1, dtype=float)
    present = np.unique(values[values > 0])[:, None].astype(np.uint8)
    fields = {
        "Boundaries": boundaries,
        "Segmentation": values.astype(np.uint8),
        "CategoriesPresent": present,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    savemat(path, {"GTcls": fields}, do_compression=True)
