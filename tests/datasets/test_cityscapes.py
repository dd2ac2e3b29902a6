from dataclasses import replace

import numpy as np

from segcore.datasets import build_dataset
from segcore.preparation import prepare
from segcore.shards import ShardReader
from tests.datasets.miniatures import cityscapes


def test_coarse_adds_a_split_and_its_archives(tmp_path):
    fine, coarse = build_dataset("cityscapes", {}), build_dataset("cityscapes", {"coarse": True})
    assert coarse.split_sizes == fine.split_sizes | {"train_extra": 19998}
    extra = [archive.name for archive in coarse.archives if archive not in fine.archives]
    assert extra == ["gtCoarse.zip", "leftImg8bit_trainextra.zip"]
    expected = cityscapes.build_coarse(tmp_path)
    coarse.split_sizes = expected.split_sizes
    raw = tmp_path / "unpacked"
    list(prepare("coarse", coarse, raw, tmp_path / "shards", tmp_path / "work"))
    reader = ShardReader(str(tmp_path / "shards"), "train_extra")
    (stem,) = expected.samples["train_extra"]
    assert reader[0].id == stem
    assert np.array_equal(reader[0].labels, expected.samples["train_extra"][stem])


def test_archives_are_the_accounts_and_may_have_been_issued_anew():
    for archive in build_dataset("cityscapes", {"coarse": True}).archives:
        assert archive.package == archive.name
        assert not (archive.checksum and archive.strict)
        assert archive == replace(archive, size=None), "the site prints no exact size"


def test_dummy_labels_of_the_test_split_are_never_prepared(tmp_path):
    cityscapes.build(tmp_path)
    assert list((tmp_path / "unpacked/gtFine/test").rglob("*_labelIds.png"))
    dataset = build_dataset("cityscapes", {"coarse": True})
    splits = dataset.pairs(tmp_path / "unpacked")
    assert set(splits) == set(dataset.split_sizes) == {"train", "val", "train_extra"}
    assert not any("test" in pair.image.parts for pairs in splits.values() for pair in pairs)
