"""One zip of images, ``.mat`` labels and lists; ids of things that nobody drew, too."""

from pathlib import Path

import numpy as np
from scipy.io import savemat

from tests.datasets.miniatures import (
    VOID,
    Expected,
    pack,
    resource_fork,
    write_lines,
    write_photo,
)

TRAIN = ["COCO_train2014_000000000081", "COCO_train2014_000000000049"]
TEST = ["COCO_train2014_000000000382"]
GAPS = (0, 12, 26, 29, 30, 45, 66, 68, 69, 71, 83, 91)


def build(folder: Path) -> Expected:
    tree, labels = folder / "unpacked", dict[str, np.ndarray]()
    for number, stem in enumerate(TRAIN + TEST):
        height, width = 40, 48 + number
        raw = np.random.default_rng(number).integers(0, 183, (height, width))
        raw[:5] = np.arange(5 * width).reshape(5, width) % 183
        if number == 1:
            raw[:] = 0
        write_photo(
            tree / f"images/{stem}.jpg", height, width, mode="RGB" if number else "L", seed=number
        )
        write_mat(tree / f"annotations/{stem}.mat", raw, names=183)
        labels[stem] = np.array([[rank(value) for value in row] for row in raw.tolist()])
    for name, stems in {"train": TRAIN, "test": TEST, "all": TRAIN + TEST}.items():
        write_lines(tree / f"imageLists/{name}.txt", stems)
    resource_fork(tree / f"annotations/{TRAIN[0]}.mat")
    archive = folder / "packed/cocostuff-10k-v1.1.zip"
    pack(archive, tree, "images", "annotations", "imageLists")
    return Expected(
        {
            "train": {stem: labels[stem] for stem in sorted(TRAIN)},
            "val": {stem: labels[stem] for stem in TEST},
        }
    )


def rank(raw: int) -> int:
    """The place of an id among those that occur, counted one by one."""
    return VOID if raw in GAPS else sum(other not in GAPS for other in range(raw))


def write_mat(path: Path, raw: np.ndarray, names: int) -> None:
    cells = np.empty((names, 1), object)
    cells[:, 0] = [f"class {number}" for number in range(names)]
    captions = np.array([["Two dogs."], ["Dogs on grass."]], object)
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {"S": raw.astype(np.uint8), "names": cells, "captions": captions}
    savemat(path, content | {"regionMapStuff": raw.astype(np.uint16)}, do_compression=True)
