import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

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


def test_drawing_again_gives_the_same(dataset, tmp_path):
    raw = acquired(dataset, tmp_path)
    before = {path: path.read_bytes() for path in raw.rglob("*") if path.is_file()}
    acquired(dataset, tmp_path)
    after = {path: path.read_bytes() for path in raw.rglob("*") if path.is_file()}
    assert before == after
    assert {split: len(pairs) for split, pairs in dataset.pairs(raw).items()} == {
        split: len(stems) for split, stems in KEPT.items()
    }


def test_a_killed_run_goes_on_and_a_complete_one_is_drawn_anew(dataset, tmp_path):
    raw = acquired(dataset, tmp_path)
    labels = {path.stem: path for path in raw.glob("labels/train/*.png")}
    for path in labels.values():
        Image.new("L", (WIDTH, HEIGHT), 2).save(path)
    (raw / "train.txt").unlink()
    labels["000000000030"].unlink()
    acquired(dataset, tmp_path)
    assert np.unique(np.asarray(Image.open(labels["000000000009"]))).tolist() == [2], "it was there"
    assert np.unique(np.asarray(Image.open(labels["000000000030"]))).tolist() == [0, 1, 3]
    assert [pair.id for pair in dataset.pairs(raw)["train"]] == KEPT["train"]
    acquired(dataset, tmp_path)
    assert np.unique(np.asarray(Image.open(labels["000000000009"]))).tolist() == [0, 1]


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
