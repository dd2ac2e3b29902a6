"""COCO's two zips of images and a zip of labels; names of folders are the same in both."""

from pathlib import Path

import numpy as np

from tests.datasets.miniatures import (
    VOID,
    Expected,
    pack,
    resource_fork,
    write_index,
    write_photo,
)

STEMS = {"train": ["000000000009", "000000000025", "000000000030"], "val": ["000000000139"]}
GAPS = (11, 25, 28, 29, 44, 65, 67, 68, 70, 82, 90, VOID)


def build(folder: Path) -> Expected:
    tree, samples = folder / "unpacked", dict[str, dict[str, np.ndarray]]()
    for split, stems in STEMS.items():
        samples[split] = {}
        for number, stem in enumerate(stems):
            height, width = 36 + number, 50
            raw = np.random.default_rng([number, len(split)]).integers(0, 182, (height, width))
            raw[:4] = np.arange(4 * width).reshape(4, width) % 182
            raw[-1] = VOID
            if number == 2:
                raw[:] = VOID
            image = tree / f"{split}2017/{stem}.jpg"
            write_photo(image, height, width, mode="RGB" if number else "L", seed=number)
            write_index(tree / f"stuffthingmaps/{split}2017/{stem}.png", raw)
            samples[split][stem] = np.array(
                [[rank(value) for value in row] for row in raw.tolist()]
            )
        resource_fork(tree / f"stuffthingmaps/{split}2017/{stems[0]}.png")
        write_photo(tree / f"{split}2017/000000999999.jpg", 9, 9)  # without label
    for name in ("train2017", "val2017"):
        pack(folder / f"packed/{name}.zip", tree, name)
    labels = folder / "packed/stuffthingmaps_trainval2017.zip"
    pack(labels, tree / "stuffthingmaps", "train2017", "val2017")
    return Expected(samples)


def rank(raw: int) -> int:
    """The place of an id among those that occur, counted one by one."""
    return VOID if raw in GAPS else sum(other not in GAPS for other in range(raw))
