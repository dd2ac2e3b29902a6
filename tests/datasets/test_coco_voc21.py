import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import segcore.datasets.coco_voc21
from segcore.datasets import Dataset, build_dataset
from segcore.datasets.coco_voc21 import COCOVOC21
from segcore.errors import InputError
from tests.datasets.miniatures import build_miniature
from tests.datasets.miniatures.coco_voc21 import HEIGHT, KEPT, SPLITS, WIDTH


@pytest.fixture
def dataset(tmp_path) -> Dataset:
    expected = build_miniature("coco_voc21", tmp_path)
    shutil.rmtree(tmp_path / "packed")
    dataset = build_dataset("coco_voc21", {})
    for attribute, value in expected.attributes.items():
        setattr(dataset, attribute, value)
    return dataset


def acquired(dataset: Dataset, folder: Path) -> Path:
    dataset.acquire(folder / "raw", folder / "unpacked")
    return folder / "raw"


def test_labels_hold_category_ids_and_small_objects_leave_none(dataset, tmp_path):
    raw = acquired(dataset, tmp_path)
    drawn = {path.stem: np.asarray(Image.open(path)) for path in raw.glob("labels/*/*.png")}
    assert sorted(drawn) == sorted(KEPT["train"] + KEPT["val"])
    assert np.unique(drawn["000000000030"]).tolist() == [0, 1, 3]
    assert (drawn["000000000030"][5:35, 10:20] == 3).all(), "the first object lies on top"
    assert np.bincount(drawn["000000000139"].ravel())[18] == 39 * 26 + 1, "two crowds"
    assert np.count_nonzero(drawn["000000000285"]) == 1001


def test_the_published_numbers_of_images_are_checked(dataset, tmp_path):
    assert COCOVOC21().annotated_images == {"train": 118287, "val": 5000}
    dataset.annotated_images = {"train": 5, "val": 3}
    with pytest.raises(InputError, match=r"instances_val2017\.json has 2 images, not 3; bring"):
        acquired(dataset, tmp_path)


def changed_long_ago(raw: Path) -> None:
    """The clock of a file system may not tell what was drawn from what it was drawn of."""
    for path in raw.glob("annotations/*.json"):
        os.utime(path, ns=(1, 1))


@pytest.fixture(autouse=True)
def _old_code(monkeypatch):
    """An edit of what draws labels would make those of these tests stale."""
    plain = segcore.datasets.coco_voc21.changed_at
    monkeypatch.setattr(
        segcore.datasets.coco_voc21,
        "changed_at",
        lambda path: 0 if path.suffix == ".py" else plain(path),
    )


def test_what_is_drawn_is_left_alone(dataset, tmp_path, monkeypatch):
    raw = acquired(dataset, tmp_path)
    changed_long_ago(raw)
    labels = {path.stem: path for path in raw.glob("labels/*/*.png")}
    before = {path: path.stat().st_mtime_ns for path in raw.rglob("*") if path.is_file()}
    monkeypatch.delattr(segcore.datasets.coco_voc21, "read_instances")
    acquired(dataset, tmp_path)
    after = {path: path.stat().st_mtime_ns for path in raw.rglob("*") if path.is_file()}
    assert before == after
    assert sorted(labels) == sorted(KEPT["train"] + KEPT["val"])
    assert {split: len(pairs) for split, pairs in dataset.pairs(raw).items()} == {
        split: len(stems) for split, stems in KEPT.items()
    }


@pytest.mark.parametrize("newer", ["annotations/instances_train2017.json", "coco_voc21.py"])
def test_labels_older_than_what_they_are_drawn_of_are_drawn_anew(
    dataset, tmp_path, monkeypatch, newer
):
    raw = acquired(dataset, tmp_path)
    labels = {path.stem: path for path in raw.glob("labels/train/*.png")}
    for path in labels.values():
        Image.new("L", (WIDTH, HEIGHT), 2).save(path)
    Image.new("L", (WIDTH, HEIGHT), 2).save(raw / "labels/train/000000000036.png")
    plain = segcore.datasets.coco_voc21.changed_at
    monkeypatch.setattr(
        segcore.datasets.coco_voc21,
        "changed_at",
        lambda path: 1 << 62 if path.match(newer) else plain(path),
    )
    acquired(dataset, tmp_path)
    assert np.unique(np.asarray(Image.open(labels["000000000009"]))).tolist() == [0, 1]
    assert [pair.id for pair in dataset.pairs(raw)["train"]] == KEPT["train"]
    kept = {path.stem for path in raw.glob("labels/train/*.png")}
    assert kept == set(KEPT["train"]), "36 has no object any more"


def test_a_killed_run_goes_on(dataset, tmp_path):
    raw = acquired(dataset, tmp_path)
    changed_long_ago(raw)
    labels = {path.stem: path for path in raw.glob("labels/train/*.png")}
    for path in labels.values():
        Image.new("L", (WIDTH, HEIGHT), 2).save(path)
    (raw / "train.txt").unlink()
    labels["000000000030"].unlink()
    acquired(dataset, tmp_path)
    assert np.unique(np.asarray(Image.open(labels["000000000009"]))).tolist() == [2], "it was there"
    assert np.unique(np.asarray(Image.open(labels["000000000030"]))).tolist() == [0, 1, 3]
    assert [pair.id for pair in dataset.pairs(raw)["train"]] == KEPT["train"]


def test_a_label_that_was_deleted_is_drawn_again(dataset, tmp_path):
    raw = acquired(dataset, tmp_path)
    changed_long_ago(raw)
    lost = raw / "labels/val/000000000139.png"
    content = lost.read_bytes()
    lost.unlink()
    acquired(dataset, tmp_path)
    assert lost.read_bytes() == content


def test_runs_that_do_not_fit_are_told_with_image_and_file(dataset, tmp_path):
    path = tmp_path / "unpacked/annotations/instances_val2017.json"
    content = json.loads(path.read_text())
    content["annotations"][0]["segmentation"]["counts"][0] += 1
    path.write_text(json.dumps(content))
    pixels = HEIGHT * WIDTH + 1
    with pytest.raises(InputError, match=rf"val2017\.json: 0+139\.jpg: runs of {pixels} pixels"):
        acquired(dataset, tmp_path)
    assert not (tmp_path / "raw/val.txt").exists(), "the list is written last"
    assert len(SPLITS["val"]) == 2
