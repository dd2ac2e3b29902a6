import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, UnidentifiedImageError

from segcore.errors import InputError
from segcore.formats.image_files import opened, opened_label, require_size

PIXELS = np.random.default_rng(0).integers(0, 256, (5, 7, 3), np.uint8)
TURNED = Image.Exif()
TURNED[0x0112] = 6  # by a quarter, as a camera that was held upright writes it


def encoded(image: Image.Image, form: str, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def grey_png(values: np.ndarray, depth: int) -> bytes:
    """By hand, as Pillow writes no grey of 2 or 4 bits: W3C PNG, 5.3 and 11.2.1."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        body = kind + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    rows = b""
    for row in values.tolist():
        bits = "".join(f"{value:0{depth}b}" for value in row)
        bits += "0" * (-len(bits) % 8)
        rows += b"\0" + bytes(int(bits[i : i + 8], 2) for i in range(0, len(bits), 8))
    header = struct.pack(">IIBBBBB", values.shape[1], values.shape[0], depth, 0, 0, 0, 0)
    parts = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + parts


# --- values --------------------------------------------------------------------------------------


@pytest.mark.parametrize("depth", [1, 2, 4, 8, 16])
def test_grey_values_are_those_that_are_stored(depth):
    values = np.arange(35).reshape(5, 7) % min(2**depth, 300)
    found = opened(grey_png(values, depth)).indices()
    assert found.tolist() == values.tolist()
    assert np.issubdtype(found.dtype, np.integer)


@pytest.mark.parametrize("most", [1, 2, 3, 7, 15, 20, 100, 200, 254, 255, 256, 1000, 65535])
def test_values_of_a_pgm_are_not_spread(most):
    values = (np.arange(35).reshape(5, 7) * 11) % (most + 1)
    wide = ">u2" if most > 255 else "u1"
    head = f"P5\n# a comment 9 9\n7 5\n{most}\n".encode()
    found = opened(head + values.astype(wide).tobytes())
    assert found.most == most
    if most in (255, 65535) or most < 255:
        assert found.indices().tolist() == values.tolist()
    assert found.is_deep == (most > 255)


def test_indices_of_a_palette_are_no_colours():
    image = Image.fromarray(np.arange(15, dtype=np.uint8).reshape(3, 5)).convert("P")
    image.putpalette([9, 9, 9] * 256)
    for options in ({}, {"bits": 4}):
        found = opened(encoded(image, "PNG", **options)).indices()
        assert found.tolist() == np.arange(15).reshape(3, 5).tolist()


TIFFS = {
    "1": Image.fromarray(PIXELS[..., 0] > 127),
    "L": Image.fromarray(PIXELS[..., 0]),
    "P": Image.fromarray(PIXELS).quantize(16),
    "I;16": Image.fromarray(PIXELS[..., 0].astype(np.uint16) * 200),
    "RGB": Image.fromarray(PIXELS),
}


@pytest.mark.parametrize("compression", [None, "tiff_lzw"])
@pytest.mark.parametrize("mode", TIFFS)
def test_a_tiff_is_never_turned(mode, compression):
    content = encoded(TIFFS[mode], "TIFF", exif=TURNED, compression=compression)
    with Image.open(io.BytesIO(content)) as image:
        image.load()
        assert image.size == (5, 7), "Pillow turns it"
    file = opened(content)
    assert file.is_deep == (mode == "I;16")
    if mode == "RGB":
        assert np.array_equal(file.rgb(), PIXELS)
    else:
        assert np.array_equal(file.indices(), np.asarray(TIFFS[mode]).astype(int))


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP"])
def test_nor_is_anything_else(form):
    content = encoded(Image.fromarray(PIXELS), form, exif=TURNED)
    assert opened(content).rgb().shape == (5, 7, 3)


# --- forms ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["JPEG2000", "ICO", "TGA", "EPS", "PCX"])
def test_other_forms_of_pillow_are_no_images(form, monkeypatch):
    content = encoded(Image.fromarray(np.tile(PIXELS, (8, 8, 1))), form)
    monkeypatch.setattr("subprocess.Popen", None)  # EPS would run Ghostscript
    with pytest.raises(UnidentifiedImageError):
        opened(content)


LOSSY = {
    "JPEG": encoded(TIFFS["L"], "JPEG"),
    "WEBP": encoded(TIFFS["RGB"], "WEBP"),
    "WEBP of several chunks": encoded(TIFFS["RGB"], "WEBP", exif=TURNED),
    "TIFF": encoded(TIFFS["RGB"], "TIFF", compression="jpeg"),
}
EXACT = {
    "PNG": encoded(TIFFS["RGB"], "PNG"),
    "WEBP": encoded(TIFFS["RGB"], "WEBP", lossless=True),
    "WEBP of several chunks": encoded(TIFFS["RGB"], "WEBP", lossless=True, exif=TURNED),
    "TIFF": encoded(TIFFS["RGB"], "TIFF", compression="tiff_lzw"),
    "GIF": encoded(TIFFS["P"], "GIF"),
    "BMP": encoded(TIFFS["RGB"], "BMP"),
}


def test_labels_of_a_lossy_form_are_refused(tmp_path: Path):
    for number, (name, content) in enumerate(LOSSY.items()):
        (tmp_path / f"{number}.png").write_bytes(content)
        with pytest.raises(InputError, match=rf"{number}\.png: {name.split()[0]} changes the val"):
            opened_label(tmp_path / f"{number}.png")
    for name, content in EXACT.items():
        (tmp_path / name).write_bytes(content)
        assert opened_label(tmp_path / name).form == name.split()[0]


def test_a_size_without_pixels_is_measured_by_the_same_limit(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    require_size("a.json", 10, 10)
    with pytest.raises(InputError, match=r"a\.json: 101x1 is more than 100 pixels"):
        require_size("a.json", 101, 1)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    require_size("a.json", 101, 1)
