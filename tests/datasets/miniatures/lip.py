"""LIP's two archives, each of which holds another one; the drop folder has the flattened tree.

That one, as MMSegmentation's guide makes it, has no lists.
"""

from pathlib import Path

import numpy as np

from tests.datasets.miniatures import (
    Expected,
    pack,
    resource_fork,
    write_index,
    write_lines,
    write_photo,
)

STEMS = {
    "train": ["100034_1222168", "1000_1234574", "1000_1244941", "10_20"],
    "val": ["100034_483681", "10005_205677"],
}


def build(folder: Path) -> Expected:
    flat, listed = folder / "unpacked", folder / "listed/TrainVal_images"
    samples = dict[str, dict[str, np.ndarray]]()
    for split, stems in STEMS.items():
        samples[split] = {}
        for number, stem in enumerate(stems):
            height, width = 70 + number, 50 + 3 * number
            values = np.random.default_rng(number).integers(0, 20, (height, width))
            image = flat / f"{split}_images" / f"{stem}.jpg"
            write_photo(image, height, width, seed=number)
            resource_fork(image)
            write_index(flat / f"{split}_segmentations" / f"{stem}.png", values)
            samples[split][stem] = values
        write_lines(listed / f"{split}_id.txt", stems)
    for archive, kind in ("images",) * 2, ("parsing_annotations", "segmentations"):
        name = f"TrainVal_{archive}"
        inner = folder / f"listed/{name}/{name}.zip"
        pack(inner, flat, f"train_{kind}", f"val_{kind}")
        pack(folder / f"packed/{name}.zip", folder / "listed", name)
    return Expected(samples)
