import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from segcore.files import read_json
from segcore.pictures import colour_key, overlay
from segcore.samples import AUDIT, CELL, COLUMNS, SHEET, draw_audit, illustrate, sample_sheet
from segcore.shards import Manifest, ShardReader


@pytest.fixture
def folder(tiny: str, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny, tmp_path / "tiny"))


def test_pictures_are_the_same_every_time(folder):
    illustrate(folder)
    first = [(folder / name).read_bytes() for name in (AUDIT, SHEET)]
    illustrate(folder)
    assert [(folder / name).read_bytes() for name in (AUDIT, SHEET)] == first


def test_the_audit_shows_both_splits_and_all_classes(folder):
    illustrate(folder)
    with Image.open(folder / AUDIT) as image:
        assert image.size == (880, round(80 * (1.2 + 0.22 * 4)))
        colours = {colour for _, colour in image.convert("RGB").getcolors(1 << 20)}
    assert {(31, 119, 180), (255, 127, 14)} <= colours, "a bar per split"


def test_the_sheet_holds_samples_of_all_parts_of_each_split(folder):
    sheet, classes = sample_sheet(folder), Manifest.read(str(folder)).classes
    height, width = CELL
    key = colour_key(classes, min(8, width * COLUMNS // colour_key(classes).shape[2]))
    assert sheet.shape == (3, 4 * height + key.shape[1], COLUMNS * width)
    left, top = (width - 64) // 2, (height - 48) // 2
    for split, row, indices in (("train", 0, [0, 1, 2, 4, 5, 6]), ("val", 2, [0, 1, 2, 3])):
        reader = ShardReader(str(folder), split)
        for column, index in enumerate(indices):
            sample = reader[index]
            x, y = column * width + left, row * height + top
            assert sheet[:, y : y + 48, x : x + 64].equal(sample.image)
            painted = overlay(sample.image, sample.labels, classes)
            assert sheet[:, y + height : y + height + 48, x : x + 64].equal(painted)
    assert (sheet[:, 2 * height : 4 * height, 4 * width :] == 255).all(), "val has four samples"
    assert sheet[:, -key.shape[1] :, : key.shape[2]].equal(key)


def test_large_samples_are_made_to_fit(folder, monkeypatch):
    monkeypatch.setattr("segcore.samples.CELL", (24, 40))
    sheet = sample_sheet(folder)
    assert sheet.shape[2] >= 6 * 40
    cell = sheet[:, :24, :40]
    assert (cell[:, :2] == 255).all()
    inner = cell[:, 4:20, 10:30].float()
    sample = ShardReader(str(folder), "train")[0].image
    small = Image.fromarray(sample.permute(1, 2, 0).numpy())
    small.thumbnail((36, 20), Image.Resampling.BOX)
    expected = torch.from_numpy(np.array(small)).permute(2, 0, 1).float()
    assert expected.shape == (3, 20, 27)
    top, left = (24 - 20) // 2, (40 - 27) // 2
    assert cell[:, top : top + 20, left : left + 27].float().equal(expected)
    assert inner.std() > 10


@pytest.mark.parametrize("pixels", [[0, 0, 0, 0], [5, 0, 0, 0]])
def test_a_split_with_hardly_a_label_is_drawn(folder, pixels):
    manifest = read_json(folder / "manifest.json")
    for facts in manifest["splits"].values():
        facts["pixels"] = pixels
    draw_audit(manifest, folder / AUDIT)
    with Image.open(folder / AUDIT) as image:
        assert image.width == 880
