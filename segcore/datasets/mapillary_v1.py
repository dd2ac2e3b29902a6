"""``mapillary_v1``: street scenes of six continents, several megapixels, 65 classes.

Neuhold et al.: The Mapillary Vistas dataset, ICCV 2017.
"""

from pathlib import Path

from segcore.datasets import Dataset, Pair, read_class_table
from segcore.formats import mapillary

__all__ = ["MapillaryV1"]


class MapillaryV1(Dataset):
    """The labels of version 1, from its own package or from that of version 2 (``v1.2``).

    Labels are palette images; an index is a place in the list of ``config.json``.
    """

    home, licence, redistribution = mapillary.HOME, mapillary.LICENCE, False
    archives, split_sizes = mapillary.ARCHIVES, mapillary.SPLIT_SIZES

    def __init__(self) -> None:
        self.classes, self.train_ids, self.known = read_class_table("mapillary_v1")

    def pairs(self, raw: Path) -> dict[str, list[Pair]]:
        found = mapillary.files_of(raw, "v1.2/labels", "labels")
        return {split: [Pair(*files) for files in samples] for split, samples in found.items()}
