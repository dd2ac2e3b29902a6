"""The two archives of Oxford-IIIT Pet: trimaps 1 to 3, and images whose names lie about them."""

from pathlib import Path

import numpy as np
from PIL import Image

from tests.datasets.miniatures import (
    Expected,
    pack,
    resource_fork,
    write_index,
    write_lines,
    write_photo,
)

BREEDS = {"Abyssinian": (1, 1), "american_bulldog": (2, 2)}
"""Breed -> class number, species. The breeds of cats begin with a capital."""
VAL = {"Abyssinian_77", "american_bulldog_77"}
"""Drawn by hand with sha256sum: of the 6 and 6 images in order of breed and hash, 1st and 11th."""


def build(folder: Path) -> Expected:
    tree, split_of = folder / "unpacked", dict[str, str]()
    lines = dict[str, list[str]](trainval=[], test=[], list=[])
    for breed, (number, species) in BREEDS.items():
        for index, name in enumerate([34, 5, 9, 100, 2, 77, 1, 3]):
            stem, split = f"{breed}_{name}", "test" if index > 5 else "trainval"
            split_of[stem] = split if split == "test" else "val" if stem in VAL else "train"
            line = f"{stem} {number} {species} {index + 1}"
            lines[split].append(line)
            lines["list"].append(line)
    for split, stems in lines.items():
        heading = ["#Image CLASS-ID SPECIES BREED ID", "#ID: 1:37 Class ids"]
        write_lines(tree / f"annotations/{split}.txt", heading * (split == "list") + stems)
    samples: dict[str, dict[str, np.ndarray]] = {"train": {}, "val": {}, "test": {}}
    for seed, stem in enumerate(sorted(split_of)):
        values = np.random.default_rng(seed).integers(1, 4, (40, 35 + seed))
        write_photo(tree / f"images/{stem}.jpg", 40, 35 + seed, seed=seed)
        write_index(tree / f"annotations/trimaps/{stem}.png", values)
        resource_fork(tree / f"annotations/trimaps/{stem}.png")
        samples[split_of[stem]][stem] = values - 1
    disguise(tree / "images/Abyssinian_34.jpg", "GIF", "P")
    disguise(tree / "images/Abyssinian_5.jpg", "PNG", "RGBA")
    resource_fork(tree / "images/Abyssinian_5.jpg")
    pack(folder / "packed/images.tar.gz", tree, "images")
    pack(folder / "packed/annotations.tar", tree, "annotations")
    (folder / "packed/annotations.tar").rename(folder / "packed/annotations.tar.gz")
    return Expected(samples)


def disguise(path: Path, form: str, mode: str) -> None:
    with Image.open(path) as image:
        image.convert(mode).save(path, form)
