"""The repository's folder ``CamVid``, without archive; its paths are another machine's."""

from pathlib import Path

import numpy as np

from tests.datasets.miniatures import (
    VOID,
    Expected,
    resource_fork,
    write_index,
    write_lines,
    write_photo,
)


def build(folder: Path) -> Expected:
    tree, samples = folder / "unpacked/CamVid", dict[str, dict[str, np.ndarray]]()
    for split, count in {"train": 3, "val": 2, "test": 1}.items():
        lines, samples[split] = list[str](), {}
        for number in range(count):
            name = f"0001TP_{split}_{number:06d}"
            values = np.random.default_rng(number).integers(0, 12, (36, 48))
            write_photo(tree / split / f"{name}.png", 36, 48, seed=number)
            write_index(tree / f"{split}annot" / f"{name}.png", values)
            resource_fork(tree / split / f"{name}.png")
            samples[split][name] = np.where(values == 11, VOID, values)
            lines.append(
                f"/SegNet/CamVid/{split}/{name}.png /SegNet/CamVid/{split}annot/{name}.png"
            )
        write_lines(tree / f"{split}.txt", lines)
    return Expected(samples)
