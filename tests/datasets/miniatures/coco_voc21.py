"""COCO's zips of images and annotations: polygons, runs of a crowd, overlaps, small objects.

Outlines lie on pixel edges, so that the pixels they hold are beyond doubt.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np

from tests.datasets.miniatures import Expected, pack, write, write_photo

HEIGHT, WIDTH = 40, 52
PERSON, CAR, DOG, ZEBRA = 1, 3, 18, 24
TRAIN_IDS = {PERSON: 15, CAR: 7, DOG: 12}


def box(top: int, left: int, bottom: int, right: int) -> list[int]:
    return [left, top, right, top, right, bottom, left, bottom]


def runs(top: int, left: int, bottom: int, right: int) -> dict[str, Any]:
    """Outside and inside in turn, down the columns."""
    mask = np.zeros((HEIGHT, WIDTH), int)
    mask[top:bottom, left:right] = 1
    flat, counts, before = mask.T.ravel().tolist(), [0], 0
    for value in flat:
        if value != before:
            counts.append(0)
        counts[-1] += 1
        before = value
    return {"counts": counts, "size": [HEIGHT, WIDTH]}


Object = tuple[int, list[tuple[int, int, int, int]]]

SCENES: dict[str, list[Object]] = {
    "000000000030": [(CAR, [(0, 0, 40, 20)]), (PERSON, [(5, 10, 35, 40)])],  # the car stays
    "000000000009": [(PERSON, [(0, 0, 20, 26), (20, 26, 40, 52)]), (ZEBRA, [(0, 26, 20, 52)])],
    "000000000025": [(DOG, [(0, 0, 40, 25)])],  # 1,000 pixels: not more than 1,000
    "000000000034": [(ZEBRA, [(0, 0, 40, 52)])],  # a class that VOC has not
    "000000000036": [],
    "000000000139": [(DOG, [(0, 0, 39, 26)]), (DOG, [(39, 51, 40, 52)])],
    "000000000285": [(CAR, [(0, 0, 40, 25)]), (PERSON, [(39, 25, 40, 26)])],  # 1,001
}
CROWDS = {"000000000139"}
SPLITS = {"train": list(SCENES)[:5], "val": list(SCENES)[5:]}
KEPT = {"train": ["000000000009", "000000000030"], "val": ["000000000139", "000000000285"]}


def build(folder: Path) -> Expected:
    tree = folder / "unpacked"
    for split, stems in SPLITS.items():
        images, annotations = list[Any](), list[Any]()
        for number, stem in enumerate(stems):
            image = tree / f"{split}2017/{stem}.jpg"
            write_photo(image, HEIGHT, WIDTH, mode="L" if number == 1 else "RGB", seed=number)
            shape = {"file_name": f"{stem}.jpg", "height": HEIGHT, "width": WIDTH}
            images.append({"license": 3, "id": int(stem), **shape})
            for category, boxes in SCENES[stem]:
                crowd = stem in CROWDS
                outline = runs(*boxes[0]) if crowd else [box(*each) for each in boxes]
                entry = {"segmentation": outline, "iscrowd": int(crowd), "image_id": int(stem)}
                annotations.append(entry | {"bbox": [0, 0, 1, 1], "category_id": category})
        info = {"description": "COCO 2017 Dataset", "year": 2017}
        categories = [{"supercategory": "person", "id": 1, "name": "person"}]
        content = {"info": info, "licenses": [], "images": images, "annotations": annotations}
        path = tree / f"annotations/instances_{split}2017.json"
        write(path, json.dumps(content | {"categories": categories}))
        write(path.with_name(f"captions_{split}2017.json"), "{}")
        pack(folder / f"packed/{split}2017.zip", tree, f"{split}2017")
    pack(folder / "packed/annotations_trainval2017.zip", tree, "annotations")
    counts = {split: len(stems) for split, stems in SPLITS.items()}
    samples = {split: {stem: painted(stem) for stem in stems} for split, stems in KEPT.items()}
    return Expected(samples, attributes={"annotated_images": counts})


def painted(stem: str) -> np.ndarray:
    """The last object first, so that the first one lies on top."""
    labels = np.zeros((HEIGHT, WIDTH), int)
    for category, boxes in reversed(SCENES[stem]):
        for top, left, bottom, right in boxes:
            if category in TRAIN_IDS:
                labels[top:bottom, left:right] = TRAIN_IDS[category]
    return labels
