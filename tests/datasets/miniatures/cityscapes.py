"""The two archives of the fine labels, which unpack into one folder; ``build_coarse`` for all four.

The published sizes are 2048x1024, and every label comes with three more files.
"""

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

FINE = {
    "train": ["aachen_000000_000019", "aachen_000001_000019", "zurich_000121_000019"],
    "val": ["frankfurt_000000_000294", "munster_000173_000019"],
}
CLASSES = [7, 8, 11, 12, 13, 17, *range(19, 29), 31, 32, 33]
"""The label ids that count, in the order of their train ids."""


def build(folder: Path) -> Expected:
    tree = folder / "unpacked"
    samples = write_split(tree, "gtFine", FINE)
    dummies = {"test": ["berlin_000000_000019"]}
    write_split(tree, "gtFine", dummies)
    for path in tree.glob("gtFine/test/*/*_labelIds.png"):
        write_index(path, np.full((32, 64), 1))  # ego vehicle all over: none may score on it
    for archive, name in ("gtFine_trainvaltest", "gtFine"), ("leftImg8bit_trainvaltest",) * 2:
        for page in "README", "license.txt":
            write(tree / page, archive)  # each archive has its own, under the same name
        names = ("README", "license.txt", name.removesuffix("_trainvaltest"))
        pack(folder / f"packed/{archive}.zip", tree, *names)
    return Expected(samples)


def build_coarse(folder: Path) -> Expected:
    fine, extra = build(folder), {"train_extra": ["troisdorf_000000_000073"]}
    tree = folder / "unpacked"
    samples = write_split(tree, "gtCoarse", extra)
    pack(folder / "packed/gtCoarse.zip", tree, "gtCoarse")
    pack(folder / "packed/leftImg8bit_trainextra.zip", tree, "leftImg8bit/train_extra")
    return Expected({**fine.samples, **samples}, options={"coarse": True})


def write_split(
    tree: Path, kind: str, splits: dict[str, list[str]]
) -> dict[str, dict[str, np.ndarray]]:
    samples = dict[str, dict[str, np.ndarray]]()
    for split, stems in splits.items():
        samples[split] = {}
        for number, stem in enumerate(stems):
            city = stem.split("_")[0]
            values = np.random.default_rng(number).integers(0, 34, (32, 64))
            image = tree / "leftImg8bit" / split / city / f"{stem}_leftImg8bit.png"
            write_photo(image, 32, 64, seed=number)
            resource_fork(image)
            labels = tree / kind / split / city
            write_index(labels / f"{stem}_{kind}_labelIds.png", values)
            write_index(labels / f"{stem}_{kind}_instanceIds.png", values * 0)
            write_photo(labels / f"{stem}_{kind}_color.png", 32, 64)
            write(labels / f"{stem}_{kind}_polygons.json", '{"objects": []}')
            samples[split][stem] = np.full((32, 64), VOID)
            for train_id, label_id in enumerate(CLASSES):
                samples[split][stem][values == label_id] = train_id
    return samples
