from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from segcore.errors import InputError
from segcore.formats.colours import ColourTable, pack, unpack
from segcore.types import IGNORE

REMEDY = "mend it"
MEANING = {(0, 0, 0): IGNORE, (0, 0, 1): 4, (0, 1, 0): 3, (255, 255, 255): 0, (64, 0, 128): 7}
CODES = pack(np.array(list(MEANING))).tolist()
TABLE = ColourTable.of(dict(zip(CODES, MEANING.values(), strict=True)))


def written(folder: Path, pixels: np.ndarray, mode: str = "RGB") -> Path:
    path = folder / "label.png"
    image = Image.fromarray(pixels.astype(np.uint8))
    (
        image.convert(mode, palette=Image.Palette.ADAPTIVE) if mode == "P" else image.convert(mode)
    ).save(path)
    return path


def test_packing_is_one_to_one():
    assert pack(np.array([[1, 2, 3], [255, 255, 255]], np.uint8)).tolist() == [66051, 16777215]
    assert unpack(66051) == (1, 2, 3)
    colours = np.random.default_rng(0).integers(0, 256, (500, 3))
    assert [unpack(code) for code in pack(colours).tolist()] == [tuple(c) for c in colours.tolist()]


@pytest.mark.parametrize("mode", ["RGB", "P", "RGBA"])
def test_equals_a_slow_lookup(tmp_path, mode):
    pixels = np.random.default_rng(1).choice(list(MEANING), (13, 17))
    slow = [[MEANING[tuple(colour)] for colour in row] for row in pixels.tolist()]
    found = TABLE.read(written(tmp_path, pixels, mode), "refuse", REMEDY)
    assert found.tolist() == slow
    assert found.dtype == np.uint8


def test_stray_colours_are_refused_with_counts_or_ignored(tmp_path):
    pixels = np.zeros((4, 5, 3))
    pixels[0], pixels[1, :2], pixels[2, 0] = (0, 0, 2), (254, 255, 255), (0, 0, 1)
    path = written(tmp_path, pixels)
    told = r"label\.png: colours of no class: \(0, 0, 2\) \(5 pixels\), \(254, 255, 255\) \(2 pix"
    with pytest.raises(InputError, match=told + ".*; mend it"):
        TABLE.read(path, "refuse", REMEDY)
    labels = TABLE.read(path, "ignore", REMEDY)
    assert labels[2, 0] == 4
    assert np.count_nonzero(labels == IGNORE) == 19


def test_many_stray_colours_are_counted_not_all_listed(tmp_path):
    pixels = np.arange(10, 30).reshape(4, 5, 1).repeat(3, 2)
    with pytest.raises(InputError, match=r"\(1 pixels\) and 15 more; mend it"):
        TABLE.read(written(tmp_path, pixels), "refuse", REMEDY)


def test_a_colour_above_all_listed_ones_is_stray(tmp_path):
    path = written(tmp_path, np.full((2, 3, 3), 255))
    with pytest.raises(InputError, match=r"\(255, 255, 255\) \(6 pixels\); mend it"):
        ColourTable.of({9: 0}).read(path, "refuse", REMEDY)
