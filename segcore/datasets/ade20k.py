"""``ade20k``: scenes of every kind, indoors and out, 150 classes (scene parsing, 2016).

Zhou et al.: Scene parsing through ADE20K dataset, CVPR 2017.
"""

from pathlib import Path

from segcore.acquisition.archives import Archive
from segcore.datasets import Dataset, Pair, read_class_table

__all__ = ["ADE20K"]


class ADE20K(Dataset):
    """The benchmark's archive. Raw 0, "other objects", is not labelled, and raw 1 is class 0.

    Some photographs are grey, and in 14 training images no pixel has a label.
    """

    home = "http://sceneparsing.csail.mit.edu"
    licence = "non-commercial research and education only; the images are not MIT's to license"
    redistribution = False
    archives = (
        Archive(
            "ADEChallengeData2016.zip",
            urls=("http://data.csail.mit.edu/places/ADEchallenge/ADEChallengeData2016.zip",),
            checksum="sha1:219e1696abb36c8ba3a3afe7fb2f4b4606a897c7",
            trees=("ADEChallengeData2016",),
        ),
    )

    def __init__(self) -> None:
        self.classes, self.train_ids, self.known = read_class_table("ade20k")
        self.split_sizes = {"train": 20210, "val": 2000}

    def pairs(self, raw: Path) -> dict[str, list[Pair]]:
        tree = raw / "ADEChallengeData2016"
        found = dict[str, list[Pair]]()
        for split, folder in ("train", "training"), ("val", "validation"):
            images = sorted((tree / "images" / folder).glob(f"ADE_{split}_*.jpg"))
            labels = tree / "annotations" / folder
            found[split] = [Pair(path.stem, path, labels / f"{path.stem}.png") for path in images]
        return found
