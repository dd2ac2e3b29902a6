"""``ADEChallengeData2016.zip``: grey labels 0 to 150, 0 for other objects."""

from pathlib import Path

import numpy as np

from tests.datasets.miniatures import (
    VOID,
    Expected,
    pack,
    resource_fork,
    write,
    write_index,
    write_photo,
)


def build(folder: Path) -> Expected:
    top, samples = folder / "unpacked/ADEChallengeData2016", dict[str, dict[str, np.ndarray]]()
    for split, name, count in ("train", "training", 4), ("val", "validation", 2):
        samples[split] = {}
        for number in range(1, count + 1):
            stem, height = f"ADE_{split}_{number:08d}", 30 + number
            values = np.random.default_rng(number).integers(0, 151, (height, 41))
            if stem == "ADE_train_00000003":
                values[:] = 0  # no labelled pixel, as in 14 images of the real set
            mode = "L" if stem == "ADE_train_00000002" else "RGB"
            image = top / "images" / name / f"{stem}.jpg"
            write_photo(image, height, 41, seed=number, mode=mode)
            write_index(top / "annotations" / name / f"{stem}.png", values)
            resource_fork(image)
            samples[split][stem] = np.where(values == 0, VOID, values - 1)
    write(
        top / "objectInfo150.txt", "Idx\tRatio\tTrain\tVal\tStuff\tName\n1\t0.15\t1\t1\t1\twall\n"
    )
    write(top / "sceneCategories.txt", "ADE_train_00000001 airport_terminal\n")
    pack(folder / "packed/ADEChallengeData2016.zip", folder / "unpacked", "ADEChallengeData2016")
    return Expected(samples)
