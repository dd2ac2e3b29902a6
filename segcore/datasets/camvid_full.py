"""``camvid_full``: CamVid at its own 960 by 720 pixels, 32 painted colours grouped into 11 classes.

Brostow, Fauqueur, Cipolla: Semantic object classes in video, PRL 30 (2009). The grouping and
the split are those of the SegNet tutorial (see ``camvid``).
"""

import csv
import sys
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from segcore.acquisition.archives import Archive
from segcore.datasets import Dataset, Pair, read_class_table
from segcore.errors import InputError
from segcore.formats.colours import ColourTable

__all__ = ["CamVidFull"]

IMAGES, LABELS = "701_StillsRaw_full", "LabeledApproved_full"
PUBLISHER = "http://web4.cs.ucl.ac.uk/staff/g.brostow/MotionSegRecData"
MIRROR = "https://github.com/johnwlambert/camvid-dataset-mirror/releases/download/v1.0.0"
END = sys.maxsize
FILMS = {
    "0001TP": [(8520, "train"), (END, "test")],
    "0006R0": [(END, "train")],
    "0016E5": [(7920, "train"), (8159, "val"), (END, "train")],
    "Seq05VD": [(END, "test")],
}
"""Film -> stretches of it: the last frame of each and its split."""
REMEDY = "mend the file, or set the dataset's option unknown_colour to ignore"


class CamVidFull(Dataset):
    """The publisher's two archives.

    ``unknown_colour``: ``refuse``, or ``ignore`` to leave pixels whose colour is no class
    unlabelled. The published ``Seq05VD_f02610_L.png`` has some 200 of them.
    """

    home = "http://web4.cs.ucl.ac.uk/staff/g.brostow/MotionSegRecData/"
    licence = "none was found; ask the authors"
    redistribution = False
    archives = (
        Archive(
            f"{IMAGES}.zip",
            urls=(f"{PUBLISHER}/files/{IMAGES}.zip", f"{MIRROR}/{IMAGES}.zip"),
            trees=(IMAGES,),
        ),
        Archive(
            f"{LABELS}.zip",
            urls=(f"{PUBLISHER}/data/{LABELS}.zip",),
            size=16567585,
            checksum="sha256:0792d4a2eb7150f417cc4745ac5ce51ec3bb4b2aa099c775d212b69c5afe6526",
            trees=(LABELS,),
        ),
    )

    def __init__(self, unknown_colour: str = "refuse") -> None:
        if unknown_colour not in ("refuse", "ignore"):
            text = f"unknown_colour: {unknown_colour!r} is neither refuse nor ignore"
            raise InputError(f"dataset camvid_full: {text}")
        self.unknown_colour = unknown_colour
        self.classes, self.train_ids, self.known = read_class_table("camvid_full")
        self.colours = read_colours()
        self.split_sizes = {"train": 367, "val": 101, "test": 233}

    def read_labels(self, path: Path) -> UInt8[np.ndarray, "h w"]:
        return self.colours.read(path, self.unknown_colour, REMEDY)

    def pairs(self, raw: Path) -> dict[str, list[Pair]]:
        """By name, wherever below ``raw`` they lie: the labels' archive has no folder."""
        files = {path.stem: path for path in sorted(raw.rglob("[!.]*.png"))}
        found = {split: list[Pair]() for split in self.split_sizes}
        for stem, image in files.items():
            if not stem.endswith("_L"):
                label = files.get(f"{stem}_L", raw / LABELS / f"{stem}_L.png")
                found[split_of(image)].append(Pair(stem, image, label))
        return found


def read_colours() -> ColourTable:
    """The colours of every class; ``raw_ids`` are their places in the publisher's list."""
    train_ids = dict[int, int]()
    with Path(__file__).with_name("camvid_full.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            for colour in row["raw_colours"].split():
                train_ids[int(colour.removeprefix("#"), 16)] = int(row["train_id"])
    return ColourTable.of(train_ids)


def split_of(image: Path) -> str:
    """The tutorial's split, which goes by stretches of film, as neighbouring frames are alike."""
    film, _, frame = image.stem.partition("_")
    if film not in FILMS or not (digits := frame.removeprefix("f")).isdecimal():
        raise InputError(f"{image} is no frame of CamVid; remove it, or rename it as published")
    return next(split for last, split in FILMS[film] if int(digits) <= last)
