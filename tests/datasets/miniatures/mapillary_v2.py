"""Mapillary Vistas 2.0: palette labels of both versions; the archive's name is random."""

import json
from pathlib import Path

import numpy as np

from tests.datasets.miniatures import VOID, Expected, pack, resource_fork, write, write_index
from tests.datasets.miniatures import write_photo as photo

STEMS = {
    "training": ["_1Gn_xkw7sa_i9GU4mkxxQ", "0035fkbjWljhaftpVM37-g", "zzzc1CFZV-Tq"],
    "validation": ["-0BZ_6b7fTW"],
}


def build(folder: Path) -> Expected:
    tree = folder / "unpacked"
    samples = write_tree(tree, {"v1.2/labels": 66, "v2.0/labels": 124})
    members = [path.name for path in sorted(tree.iterdir())]
    pack(folder / "packed/An_o5cmHOsS1VbLdaKx_zfMdi0No5LUpL2htRxMwCjY.zip", tree, *members)
    return Expected(samples)


def write_tree(tree: Path, versions: dict[str, int]) -> dict[str, dict[str, np.ndarray]]:
    """``versions``: folder -> count of its labels; the samples are those of the last one."""
    samples = dict[str, dict[str, np.ndarray]]()
    for split, folder in ("train", "training"), ("val", "validation"):
        samples[split] = {}
        for number, stem in enumerate(sorted(STEMS[folder])):
            photo(tree / folder / "images" / f"{stem}.jpg", 40 + number, 60, seed=number)
            resource_fork(tree / folder / "images" / f"{stem}.jpg")
            for place, count in versions.items():
                values = np.random.default_rng(count + number).integers(0, count, (40 + number, 60))
                write_index(tree / folder / place / f"{stem}.png", values, palette=True)
                unlabelled = count == 66 and values == 65
                samples[split][stem] = np.where(unlabelled, VOID, values)
    photo(tree / "testing/images/secret.jpg", 40, 60)
    write(tree / "config_v1.2.json", json.dumps({"labels": [{"readable": "Bird"}]}))
    return samples
