import io
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from PIL import Image

from segcore.preparation import treatment
from segcore.preparation.images import Picture, encoded
from segcore.preparation.treatment import Stored, shrunk, spans, treated
from segcore.tables import DatasetTable, Tile, Treatment
from segcore.types import IGNORE


def sample(height: int, width: int) -> tuple[Picture, np.ndarray]:
    generator = np.random.default_rng([height, width])
    small = Image.fromarray(generator.integers(0, 256, (4, 5, 3), np.uint8))
    pixels = np.asarray(small.resize((width, height), Image.Resampling.BICUBIC))
    labels = generator.integers(0, 5, (height, width)).astype(np.uint8)
    return Picture(pixels, encoded(pixels, "png"), "png"), labels


def all_of(picture: Picture, labels: np.ndarray, **keys: Any) -> list[Stored]:
    return list(treated("s", picture, labels, Treatment.model_validate(keys)))


def opened(stored: Stored) -> Image.Image:
    return Image.open(io.BytesIO(stored.record.image))


# --- nothing asked -------------------------------------------------------------------------------


def test_what_is_not_to_be_changed_keeps_its_bytes():
    picture, labels = sample(20, 30)
    keys = {"max_side": 30, "tile": {"size": [20, 30], "overlap": 4}}
    (stored,) = all_of(picture, labels, **keys)
    assert stored.record == ("s", picture.encoded, labels.tobytes(), 20, 30)
    assert stored.overlap == 0


@pytest.mark.parametrize(("form", "name"), [("jpeg", "JPEG"), ("webp", "WEBP")])
def test_another_format_looks_alike_and_is_not_encoded_twice(form, name):
    picture, labels = sample(40, 60)
    (stored,) = all_of(picture, labels, image_format=form)
    assert opened(stored).format == name
    difference = np.asarray(opened(stored)).astype(int) - picture.pixels
    assert np.abs(difference).mean() < 2
    assert stored.record.labels == labels.tobytes()
    again = Picture(np.asarray(opened(stored)), stored.record.image, form)
    assert all_of(again, labels, image_format=form)[0].record.image == stored.record.image
    assert all_of(again, labels)[0].record.image == stored.record.image


def test_an_image_that_a_format_cannot_hold_is_told():
    wide = np.zeros((1, 16384, 3), np.uint8)
    with pytest.raises(
        ValueError, match="webp holds at most 16383 pixels a side, this has 16384x1"
    ):
        encoded(wide, "webp")
    assert encoded(wide, "jpeg")


# --- max_side ------------------------------------------------------------------------------------


def test_shrunk_labels_lie_where_the_image_shows_them():
    labels = np.zeros((40, 80), np.uint8)
    labels[8:32, 20:60] = 1
    pixels = np.repeat(labels[..., None] * 200, 3, axis=2).astype(np.uint8)
    picture, small = shrunk(Picture(pixels), labels, 20)
    assert picture.pixels.shape == (10, 20, 3)
    expected = np.zeros((10, 20), np.uint8)
    expected[2:8, 5:15] = 1
    assert np.array_equal(small, expected)
    assert (picture.pixels[3:7, 6:14] > 190).all()
    assert (picture.pixels[:, :3] < 10).all()


@pytest.mark.parametrize(("size", "expected"), [((30, 90), (20, 60)), ((90, 30), (60, 20))])
def test_the_longer_side_decides(size, expected):
    (stored,) = all_of(*sample(*size), max_side=60)
    assert (stored.record.height, stored.record.width) == expected
    assert opened(stored).size == expected[::-1]
    assert opened(stored).format == "PNG"
    assert np.array_equal(np.asarray(opened(stored)), stored.pixels)


def test_a_line_does_not_vanish():
    assert shrunk(*sample(1, 400), 50)[1].shape == (1, 50)


# --- tiles ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("length", [1, 9, 10, 11, 17, 18, 19, 40, 101])
@pytest.mark.parametrize("overlap", [0, 1, 3, 9])
def test_tiles_cover_a_side_and_own_every_pixel_once(length, overlap):
    found = spans(length, 10, overlap)
    assert found[0].start == 0
    assert found[-1].stop == length
    assert all(span.stop - span.start == min(length, 10) for span in found)
    owned = [place for span in found for place in range(span.first, span.end)]
    assert owned == list(range(length))
    for span in found:
        assert span.start <= span.first < span.end <= span.stop
    for left, right in pairwise(found):
        assert left.stop - right.start >= overlap
    fewest = 1 if length <= 10 else -(-(length - overlap) // (10 - overlap))
    assert len(found) == fewest


def test_tiles_put_together_are_the_image():
    picture, labels = sample(37, 53)
    parts = all_of(picture, labels, tile={"size": [16, 20], "overlap": 5})
    assert len({part.record.id for part in parts}) == len(parts) == 3 * 4
    image, found = np.zeros_like(picture.pixels), np.full_like(labels, IGNORE)
    seen = np.zeros(labels.shape, int)
    for part in parts:
        top, left = map(int, part.record.id.removeprefix("s@").split("-"))
        place = np.s_[top : top + part.record.height, left : left + part.record.width]
        image[place] = np.asarray(opened(part))
        own = part.labels != IGNORE
        assert part.overlap == (~own).sum()
        assert part.record.labels == part.labels.tobytes()
        seen[place] += own
        found[place][own] = part.labels[own]
    assert np.array_equal(image, picture.pixels)
    assert np.array_equal(found, labels)
    assert (seen == 1).all()


def test_a_side_that_fits_is_not_cut():
    parts = all_of(*sample(10, 50), tile={"size": [20, 20]})
    assert [part.record.id for part in parts] == ["s@0-0", "s@0-15", "s@0-30"]
    assert all((part.record.height, part.record.width) == (10, 20) for part in parts)


def test_impossible_treatment_is_refused():
    with pytest.raises(ValueError, match="overlap 8 is not less than the tile"):
        DatasetTable.model_validate({"tile": {"size": [8, 16], "overlap": 8}})
    for keys in ({"max_side": 0}, {"image_format": "png"}, {"skip_bad": -1}):
        with pytest.raises(ValueError, match=next(iter(keys))):
            DatasetTable.model_validate(keys)


def test_tiles_are_made_one_by_one(monkeypatch):
    made = list[str]()
    record = treatment.Record
    monkeypatch.setattr(treatment, "Record", lambda *row: made.append(row[0]) or record(*row))
    parts = treated("s", *sample(10, 50), Treatment(tile=Tile(size=(20, 20))))
    assert made == []
    assert next(parts).record.id == "s@0-0"
    assert made == ["s@0-0"]


def test_a_tile_needs_no_memory_but_its_own(monkeypatch):
    """Label maps as large as the image, one per tile, would make large images take for ever."""
    sizes = list[int]()
    full = np.full
    monkeypatch.setattr(
        treatment.np,
        "full",
        lambda shape, *rest: sizes.append(np.prod(shape)) or full(shape, *rest),
    )
    assert len(all_of(*sample(40, 50), tile={"size": [20, 20]})) == 6
    assert sizes == [400] * 6
