"""``mapillary_v1``: street scenes of six continents, several megapixels, 65 classes.

Neuhold et al.: The Mapillary Vistas dataset, ICCV 2017.
"""

from pathlib import Path

from segcore.acquisition.archives import Archive
from segcore.datasets import Dataset, Pair, read_class_table

__all__ = ["MapillaryV1"]


class MapillaryV1(Dataset):
    """The labels of version 1, from its own package or from that of version 2 (``v1.2``).

    Labels are palette images; an index is a place in the list of ``config.json``.
    """

    home = "https://www.mapillary.com/dataset/vistas"
    licence = "research edition: its own licence, which bars commercial use"
    redistribution = False
    archives = (Archive("*", trees=("training", "validation")),)

    def __init__(self) -> None:
        self.classes, self.train_ids, self.known = read_class_table("mapillary_v1")
        self.split_sizes = {"train": 18000, "val": 2000}

    def pairs(self, raw: Path) -> dict[str, list[Pair]]:
        tree = next(iter(sorted(raw.glob("*/training"))), raw / "training").parent
        found = dict[str, list[Pair]]()
        for split, folder in ("train", "training"), ("val", "validation"):
            images = sorted((tree / folder / "images").glob("[!.]*.jpg"))
            newer = tree / folder / "v1.2/labels"
            labels = newer if newer.is_dir() else tree / folder / "labels"
            found[split] = [Pair(path.stem, path, labels / f"{path.stem}.png") for path in images]
        return found
