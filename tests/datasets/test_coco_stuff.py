from pathlib import Path

import numpy as np
import pytest

from segcore.datasets import build_dataset
from segcore.errors import InputError
from segcore.types import IGNORE
from tests.datasets.miniatures import build_miniature
from tests.datasets.miniatures.coco_stuff_10k import write_mat


def test_ids_of_the_two_sets_differ_by_one_and_mean_the_same():
    small, whole = (build_dataset(f"coco_stuff_{size}", {}) for size in ("10k", "164k"))
    assert small.classes == whole.classes
    assert small.known == set(range(183))
    assert whole.known == {*range(182), 255}
    assert small.train_ids[1:183].tolist() == whole.train_ids[:182].tolist()
    assert small.train_ids[[0, 1, 182]].tolist() == [IGNORE, 0, 170]
    assert whole.train_ids[[0, 181, 255]].tolist() == [0, 170, IGNORE]


def test_version_1_of_the_10k_set_is_refused(tmp_path):
    dataset, raw = build_dataset("coco_stuff_10k", {}), np.full((3, 4), 2)
    path = tmp_path / "a.mat"
    write_mat(path, raw, names=172)
    assert (dataset.read_labels(path) == 1).all()  # no sign of it in these ids
    raw[0, 0] = 12
    write_mat(path, raw, names=172)
    with pytest.raises(InputError, match=r"a\.mat is of version 1\.0, .* cocostuff-10k-v1\.1\.zip"):
        dataset.read_labels(path)
    write_mat(path, raw, names=183)
    assert dataset.read_labels(path)[0].tolist() == [IGNORE, 1, 1, 1]


def test_ids_beyond_182_are_refused(tmp_path):
    write_mat(tmp_path / "a.mat", np.full((3, 4), 183), names=183)
    with pytest.raises(InputError, match=r"a\.mat: .* table: 183 \(12 pixels\)"):
        build_dataset("coco_stuff_10k", {}).read_labels(tmp_path / "a.mat")


def test_an_image_without_label_is_no_sample_but_a_label_without_image_is(tmp_path):
    build_miniature("coco_stuff_164k", tmp_path)
    dataset, raw = build_dataset("coco_stuff_164k", {}), tmp_path / "unpacked"
    (raw / "train2017/000000000025.jpg").unlink()
    pairs = dataset.pairs(raw)
    assert [pair.id for pair in pairs["train"]] == ["000000000009", "000000000025", "000000000030"]
    assert [pair.image.exists() for pair in pairs["train"]] == [True, False, True]
    assert pairs["val"][0].label == Path(raw / "stuffthingmaps/val2017/000000000139.png")
