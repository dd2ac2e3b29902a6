"""Mapillary Vistas 1.1, whose archive has a name of its own; unpacked, the package of version 2."""

from pathlib import Path

from tests.datasets.miniatures import Expected, pack
from tests.datasets.miniatures.mapillary_v2 import write_tree


def build(folder: Path) -> Expected:
    name = "mapillary-vistas-dataset_public_v1.1"
    samples = write_tree(folder / name, {"labels": 66})
    (folder / name / "config_v1.2.json").rename(folder / name / "config.json")
    pack(folder / f"packed/{name}.zip", folder, name)
    write_tree(folder / "unpacked", {"v1.2/labels": 66, "v2.0/labels": 124})
    return Expected(samples)
