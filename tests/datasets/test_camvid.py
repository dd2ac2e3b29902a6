import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from segcore.datasets import build_dataset
from segcore.errors import InputError
from segcore.types import IGNORE

# Pixels of the 367 training labels, class by class and void: counted once, independently.
TRAIN_PIXELS = [
    *(10682767, 14750079, 623349, 20076880, 2845085, 6166762),
    *(743859, 714595, 3719877, 405385, 184967),
]
TRAIN_VOID = 2503995


@pytest.fixture
def drop(tmp_path) -> Path:
    """The published tree in small: label values are the image's number, the last row is void."""
    folder = tmp_path / "drop"
    for split, prefix in ("train", "/SegNet/CamVid/"), ("val", ""):
        lines = []
        for number in range(2):
            image = f"{split}/{split}_{number}.png"
            label = image.replace(split, f"{split}annot", 1)
            for path in (image, label):
                (folder / path).parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (4, 3), (number, 0, 9)).save(folder / image)
            values = np.full((3, 4), number, np.uint8)
            values[-1] = 11
            Image.fromarray(values).save(folder / label)
            lines.append(f"{prefix}{image} {prefix}{label}\n")
        (folder / f"{split}.txt").write_text("".join(lines))
    return folder


def test_acquires_the_published_tree(drop, tmp_path):
    dataset, raw = build_dataset("camvid", {}), tmp_path / "raw"
    dataset.acquire(raw, drop)
    dataset.acquire(raw, drop)
    pairs = dataset.pairs(raw)
    assert {split: [pair.id for pair in found] for split, found in pairs.items()} == {
        "train": ["train_0", "train_1"],
        "val": ["val_0", "val_1"],
    }
    last = pairs["train"][1]
    assert last.image.read_bytes() == (drop / "train/train_1.png").read_bytes()
    assert dataset.read_labels(last.label).tolist() == [[1] * 4, [1] * 4, [IGNORE] * 4]
    kept = sorted(path.name for path in raw.rglob("*") if path.is_file())
    assert kept == sorted(path.name for path in drop.rglob("*") if path.is_file())


def test_raw_files_are_no_links_into_the_drop_folder(drop, tmp_path):
    build_dataset("camvid", {}).acquire(tmp_path / "raw", drop)
    assert not (drop / "val/val_0.png").samefile(tmp_path / "raw/val/val_0.png")


def test_finds_the_repositorys_folder_and_the_test_split(drop, tmp_path):
    (drop / "test").mkdir()
    (drop / "testannot").mkdir()
    for folder in ("", "annot"):
        source = drop / f"val{folder}/val_0.png"
        (drop / f"test{folder}/only.png").write_bytes(source.read_bytes())
    (drop / "test.txt").write_text("/SegNet/CamVid/test/only.png /SegNet/CamVid/testannot/only.png")
    outer = tmp_path / "repository"
    outer.mkdir()
    drop.rename(outer / "CamVid")
    dataset = build_dataset("camvid", {})
    dataset.acquire(tmp_path / "raw", outer)
    assert [pair.id for pair in dataset.pairs(tmp_path / "raw")["test"]] == ["only"]


def test_missing_folder_list_or_file_is_named(drop, tmp_path):
    dataset = build_dataset("camvid", {})
    with pytest.raises(InputError, match=r"nowhere is missing.*github\.com/alexgkendall"):
        dataset.acquire(tmp_path / "raw", tmp_path / "nowhere")
    (drop / "valannot/val_1.png").unlink()
    with pytest.raises(InputError, match=r"valannot/val_1\.png is missing"):
        dataset.acquire(tmp_path / "raw", drop)
    (drop / "val.txt").unlink()
    with pytest.raises(InputError, match=r"val\.txt is missing"):
        dataset.acquire(tmp_path / "raw", drop)


def test_a_line_without_label_is_named(drop, tmp_path):
    (drop / "train.txt").write_text("train/train_0.png\n")
    with pytest.raises(InputError, match=r"train\.txt, line 1: .*'train/train_0\.png'"):
        build_dataset("camvid", {}).acquire(tmp_path / "raw", drop)


@pytest.mark.skipif("SEGCORE_CAMVID" not in os.environ, reason="SEGCORE_CAMVID names no real copy")
def test_real_pixel_counts():
    dataset = build_dataset("camvid", {})
    pairs = dataset.pairs(Path(os.environ["SEGCORE_CAMVID"]))
    sizes = {split: len(found) for split, found in pairs.items()}
    assert sizes == {split: dataset.split_sizes[split] for split in sizes}
    counts = np.zeros(256, np.int64)
    for pair in pairs["train"]:
        counts += np.bincount(dataset.read_labels(pair.label).ravel(), minlength=256)
    assert counts[:11].tolist() == TRAIN_PIXELS
    assert counts[IGNORE] == TRAIN_VOID
    assert counts.sum() == 367 * 360 * 480
