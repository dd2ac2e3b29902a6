import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from segcore.datasets import build_dataset
from segcore.datasets.folder import Folder
from segcore.download import download
from segcore.errors import InputError
from segcore.preparation import prepare
from segcore.shards import Manifest, ShardReader
from segcore.types import IGNORE

BOX = [2, 1, 6, 1, 6, 4, 2, 4]
FRAME = [0, 0, 10, 0, 10, 8, 0, 8]


@pytest.fixture
def root(tmp_path) -> Path:
    """Six photos of 8x10; each with a Cityscapes file, all in a COCO file. Even ones hold a car."""
    images, objects = list[Any](), list[Any]()
    for number in range(6):
        path = tmp_path / f"photos/{'ab'[number % 2]}/{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (10, 8), (number, 9, 9)).save(path)
        things = [("road", 1, FRAME)] + [("car", 2, BOX)] * (number % 2 == 0)
        images.append({"id": number, "file_name": path.name, "height": 8, "width": 10})
        for _, category, outline in things:
            entry = {"image_id": number, "category_id": category, "segmentation": [outline]}
            objects.append(entry | {"id": len(objects), "iscrowd": 0})
        polygons = [
            {"label": name, "polygon": np.reshape(outline, (-1, 2)).tolist()}
            for name, _, outline in things
        ]
        target = tmp_path / f"gt/{'ab'[number % 2]}/{number}_polygons.json"
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(json.dumps({"imgHeight": 8, "imgWidth": 10, "objects": polygons}))
    categories = [{"id": 1, "name": "road"}, {"id": 2, "name": "car"}]
    content = {"images": images, "annotations": objects, "categories": categories}
    (tmp_path / "annotations.json").write_text(json.dumps(content))
    return tmp_path


def build(root: Path, **changes: Any) -> Folder:
    options = {
        "root": str(root),
        "images": "photos/{stem}.png",
        "labels": "gt/{stem}_polygons.json",
        "split": {"val": 0.34, "seed": 1},
        "classes": ["road", "car"],
        "encoding": "polygons",
    }
    dataset = build_dataset("folder", options | changes)
    assert isinstance(dataset, Folder)
    return dataset


def prepared(dataset: Folder, folder: Path) -> dict[str, np.ndarray]:
    """Train ids by id, by way of download and prepare."""
    download(dataset, folder / "raw", folder / "drop")
    list(prepare("toy", dataset, folder / "raw", folder / "out", folder / "work"))
    readers = (
        ShardReader(str(folder / "out"), s) for s in Manifest.read(str(folder / "out")).splits
    )
    samples = (reader[index] for reader in readers for index in range(len(reader)))
    return {sample.id: sample.labels.numpy() for sample in samples}


@pytest.mark.parametrize(
    ("labels", "last_row", "last_column"),
    [("gt/{stem}_polygons.json", 4, 6), ("annotations.json", 3, 5)],
)
def test_polygons_become_train_ids(root, tmp_path, labels, last_row, last_column):
    """By hand: a Cityscapes polygon covers its outline, a COCO one ends before it."""
    found = prepared(build(root, labels=labels), tmp_path / "place")
    assert len(found) == 6
    for name, train_ids in found.items():
        expected = np.zeros((8, 10), np.uint8)
        if int(name[-1]) % 2 == 0:
            expected[1 : last_row + 1, 2 : last_column + 1] = 1
        assert train_ids.tolist() == expected.tolist(), name


def test_names_may_be_grouped_ignored_or_left_to_the_background(root):
    label = root / "gt/a/0_polygons.json"
    ignoring = build(root, classes={"ground": ["road", "path"]}, ignore=["car"])
    assert ignoring.classes.names == ("ground",)
    assert np.unique(ignoring.read_labels(label)).tolist() == [0, IGNORE]
    one = build(root, classes={"all": ["road", "car"]})
    assert not one.read_labels(label).any()
    content = json.loads(label.read_text())
    content["objects"] = content["objects"][1:]
    label.write_text(json.dumps(content))
    assert (build(root).read_labels(label) == IGNORE).sum() == 60
    assert (build(root, background="road").read_labels(label) == 0).sum() == 60


def test_a_file_per_split(root):
    for split in "train", "val":
        (root / f"{split}.json").write_text((root / "annotations.json").read_text())
    patterns = {"train": "photos/a/*.png", "val": "photos/b/*.png"}
    dataset = build(root, images=patterns, labels="{split}.json", split=None)
    dataset.acquire(root / "raw", root)
    found = dataset.pairs(root / "raw")
    assert [pair.label.relative_to(root).as_posix() for pair in found["val"]] == [
        f"raw/polygons/val/{number}.json" for number in (1, 3, 5)
    ]
    assert all(pair.label.is_file() for pairs in found.values() for pair in pairs)


def test_wrong_polygons_are_told_in_one_list(root, tmp_path):
    for number, thing in (0, {"label": "tram"}), (2, {"label": "car", "polygon": [[1, 2]]}):
        path = root / f"gt/a/{number}_polygons.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"objects": [thing]}))
    path = root / "gt/b/1_polygons.json"
    path.write_text(path.read_text().replace('"imgHeight": 8', '"imgHeight": 9'))
    with pytest.raises(InputError) as caught:
        prepared(build(root), tmp_path / "place")
    message = str(caught.value)
    assert "3 problem(s)" in message
    assert "0_polygons.json: add these names to classes or ignore: 'tram' (1 objects)" in message
    assert "2_polygons.json: objects.0.polygon" in message
    assert "is 10x8 pixels but its labels" in message


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"labels": "gone.json"},
            r"labels: . of . images of split train have no label.*\n .*gone\.json",
        ),
        (
            {"classes": {"road": 0}},
            r"class road: 0 does not fit; an example: car or \[car, truck\]",
        ),
        ({"classes": {"a": "car", "b": "car"}}, "b: label value car has a meaning already"),
        ({"classes": ["car", "car"]}, "a name stands twice"),
        ({"ignore": [255]}, "ignore: .255. does not fit"),
        ({"background": "raod"}, "background: no class 'raod'; did you mean 'road'"),
        ({"background": 0}, "background: no class 0"),
        ({"encoding": "polygon"}, "encoding: 'polygon' is neither"),
        (
            {"encoding": "index", "labels": "photos/{stem}.png", "background": "road"},
            "background: index labels have none",
        ),
    ],
)
def test_refusals_name_the_option_and_the_remedy(root, changes, message):
    with pytest.raises(InputError, match=message):
        build(root, **changes)


def test_an_image_without_entry_is_told_before_anything_is_written(root):
    Image.new("RGB", (10, 8)).save(root / "photos/a/extra.png")
    dataset = build(root, labels="annotations.json")
    with pytest.raises(InputError, match=r"annotations\.json: .*extra\.png is not in its images"):
        dataset.acquire(root / "raw", root)
    assert not (root / "raw").exists()


@pytest.mark.parametrize("labels", ["gt/{stem}_polygons.json", "annotations.json"])
def test_the_list_of_files_does_not_travel_to_every_process(root, labels):
    """A task is pickled with its dataset; what it needs is to read labels, and no more."""
    dataset = build(root, labels=labels)
    dataset.acquire(root / "raw", root)
    label = dataset.pairs(root / "raw")["train"][0].label
    travelled = pickle.loads(pickle.dumps(dataset))
    assert np.array_equal(travelled.read_labels(label), dataset.read_labels(label))
    assert b"photos" not in pickle.dumps(dataset)
