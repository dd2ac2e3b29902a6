from pathlib import Path

import numpy as np
import pytest
from scipy.io import savemat

from segcore.datasets import build_dataset
from segcore.errors import InputError
from segcore.types import IGNORE
from tests.datasets.miniatures import build_miniature, write_lines


@pytest.fixture
def tree(tmp_path) -> Path:
    build_miniature("voc2012", tmp_path)
    return tmp_path / "unpacked"


def test_no_image_of_val_is_trained_on_and_voc_labels_win(tree):
    pairs = build_dataset("voc2012", {}).pairs(tree)
    train = {pair.id: pair.label.suffix for pair in pairs["train"]}
    assert train == {
        "2007_000032": ".png",  # SBD has one, too
        "2007_000039": ".png",
        "2008_000002": ".mat",
        "2008_000003": ".mat",
    }
    assert not train.keys() & {pair.id for pair in pairs["val"]}


def test_arithmetic_of_the_published_splits(tree):
    """The real counts: 1,464 and 1,449 of VOC, 8,498 and 2,857 of SBD, 2,237 of SBD in VOC."""
    names = [f"{number:06d}" for number in range(20000)]
    train, val = names[:1464], names[1464:2913]
    shared, own = names[676:2913], names[2913 : 2913 + 9118]
    sbd = shared + own
    assert len(sbd) == 8498 + 2857
    voc, more = tree / "VOCdevkit/VOC2012/ImageSets/Segmentation", tree / "benchmark_RELEASE"
    write_lines(voc / "train.txt", train)
    write_lines(voc / "val.txt", val)
    write_lines(more / "dataset/train.txt", sbd[2857:])
    write_lines(more / "dataset/val.txt", sbd[:2857])
    dataset = build_dataset("voc2012", {})
    sizes = {split: len(pairs) for split, pairs in dataset.pairs(tree).items()}
    assert sizes == dataset.split_sizes == {"train": 10582, "val": 1449}


def test_without_additions(tree):
    dataset = build_dataset("voc2012", {"additions": False})
    assert [archive.name for archive in dataset.archives] == ["VOCtrainval_11-May-2012.tar"]
    assert dataset.split_sizes == {"train": 1464, "val": 1449}
    train = [pair.id for pair in dataset.pairs(tree)["train"]]
    assert train == ["2007_000032", "2007_000039"]


def test_missing_and_empty_lists_are_named(tree):
    dataset = build_dataset("voc2012", {})
    path = tree / "benchmark_RELEASE/dataset/val.txt"
    path.write_text("\n\n")
    with pytest.raises(InputError, match=r"dataset/val\.txt names no image"):
        dataset.pairs(tree)
    path.unlink()
    with pytest.raises(InputError, match=r"dataset/val\.txt is missing"):
        dataset.pairs(tree)


def test_an_all_void_label_is_read_and_values_beyond_20_are_refused(tree, tmp_path):
    dataset = build_dataset("voc2012", {})
    labels = {pair.id: pair.label for pair in dataset.pairs(tree)["train"]}
    assert (dataset.read_labels(labels["2007_000032"]) == IGNORE).all()
    path = tmp_path / "odd.mat"
    savemat(path, {"GTcls": {"Segmentation": np.full((3, 4), 21, np.uint8)}})
    with pytest.raises(InputError, match=r"odd\.mat: .* table: 21 \(12 pixels\)"):
        dataset.read_labels(path)
    savemat(path, {"GTcls": np.zeros((2, 2, 2))})
    with pytest.raises(InputError, match=r"odd\.mat: a label map was expected"):
        dataset.read_labels(path)
