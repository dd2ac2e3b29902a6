import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from segcore.datasets import build_dataset
from segcore.errors import InputError
from tests.datasets.miniatures import lip


def test_left_and_right_change_places_in_a_mirrored_image():
    dataset = build_dataset("lip", {})
    labels = torch.tensor([[0, 13, 14, 15], [16, 17, 18, 19]])
    assert torch.tensor(dataset.classes.mirror)[labels].tolist() == [
        [0, 13, 15, 14],
        [17, 16, 19, 18],
    ]


def test_the_lists_decide_where_they_are_there(tmp_path):
    lip.build(tmp_path)
    raw = tmp_path / "unpacked"
    (raw / "lists").mkdir()
    for split, stems in lip.STEMS.items():
        (raw / f"lists/{split}_id.txt").write_text("\n".join(reversed(stems[1:])))
    found = build_dataset("lip", {}).pairs(raw)
    for split, stems in lip.STEMS.items():
        assert [pair.id for pair in found[split]] == stems[1:]


def test_a_missing_folder_is_named_with_the_archives(tmp_path):
    lip.build(tmp_path)
    raw = tmp_path / "unpacked"
    shutil.rmtree(raw / "val_segmentations")
    with pytest.raises(InputError, match=r"no folder val_segmentations below .*TrainVal_images"):
        build_dataset("lip", {}).pairs(raw)


def test_the_uppermost_folder_counts(tmp_path):
    lip.build(tmp_path)
    raw, moved = tmp_path / "raw", tmp_path / "raw/TrainVal_images/train_images"
    shutil.move(tmp_path / "unpacked", raw)
    moved.mkdir(parents=True)
    (Path(moved) / "other.jpg").write_bytes(b"")
    pairs = build_dataset("lip", {}).pairs(raw)["train"]
    assert [pair.id for pair in pairs] == lip.STEMS["train"]
    labels = build_dataset("lip", {}).read_labels(pairs[0].label)
    assert np.unique(labels).tolist() == list(range(20))
