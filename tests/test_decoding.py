import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from segcore.decoding import decode


def picture() -> Image.Image:
    """Odd sizes, so that halved colour planes end within a block; smooth, with a little noise."""
    y, x = np.mgrid[:61, :83]
    waves = np.stack([np.sin(x / 9), np.cos(y / 7), np.sin((x + y) / 11)], -1)
    noise = np.random.default_rng(0).normal(0, 4, waves.shape)
    return Image.fromarray((127 + 100 * waves + noise).clip(0, 255).astype(np.uint8))


def encoded(kind: str, image: Image.Image | None = None, **options) -> bytes:
    buffer = io.BytesIO()
    (image or picture()).save(buffer, kind, **options)
    return buffer.getvalue()


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def in_parts(png: bytes, more: bytes = b"") -> bytes:
    """Its pixels in IDAT chunks of 1000 bytes, as many encoders write them."""
    start = png.index(b"IDAT") - 4
    (length,) = struct.unpack_from(">I", png, start)
    data = png[start + 8 : start + 8 + length] + more
    parts = [chunk(b"IDAT", data[i : i + 1000]) for i in range(0, len(data), 1000)]
    assert len(parts) > 5
    return png[:start] + b"".join(parts) + png[start + 12 + length :]


def interlaced() -> bytes:
    """Adam7 (W3C PNG, 8.2), every row without filter; Pillow only reads it."""
    pixels = np.array(picture())
    passes = [(0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2)]
    rows = [
        b"\0" + row.tobytes()
        for top, left, down, right in [*passes, (1, 0, 2, 1)]
        for row in pixels[top::down, left::right]
    ]
    header = struct.pack(">IIBBBBB", pixels.shape[1], pixels.shape[0], 8, 2, 0, 0, 1)
    parts = chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(b"".join(rows)))
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts) + chunk(b"IEND", b"")


ADAM7 = interlaced()
ROTATED = Image.Exif()
ROTATED[0x0112] = 6  # as a camera that was held upright writes it
TEXT = PngImagePlugin.PngInfo()
TEXT.add(b"gAMA", (45455).to_bytes(4, "big"))
FILES = {
    "png": encoded("PNG"),
    "png, stored": encoded("PNG", compress_level=0),
    "png, interlaced": ADAM7,
    "png, many parts": in_parts(encoded("PNG")),
    "png, without its end": encoded("PNG")[:-12],
    "png, more after its pixels": in_parts(encoded("PNG"), more=b"more"),
    "png, gray": encoded("PNG", picture().convert("L")),
    "png, palette": encoded("PNG", picture().quantize(60)),
    "png, a colour that means transparent": encoded("PNG", transparency=(127, 127, 127)),
    "png, gamma": encoded("PNG", pnginfo=TEXT),
    "png, exif": encoded("PNG", exif=ROTATED),
    "jpeg 4:4:4": encoded("JPEG", quality=95, subsampling=0),
    "jpeg 4:2:2": encoded("JPEG", quality=80, subsampling=1),
    "jpeg 4:2:0": encoded("JPEG", quality=75, subsampling=2),
    "jpeg, progressive": encoded("JPEG", quality=75, progressive=True),
    "jpeg, exif": encoded("JPEG", quality=90, exif=ROTATED),
    "jpeg, rgb kept": encoded("JPEG", quality=90, keep_rgb=True),
    "mpo": encoded("MPO", save_all=True, append_images=[picture().rotate(180)], quality=90),
    "webp": encoded("WEBP", quality=80),
    "webp, lossless": encoded("WEBP", lossless=True),
}


@pytest.mark.parametrize("name", FILES)
def test_pixels_are_those_of_pillow(name):
    with Image.open(io.BytesIO(FILES[name])) as image:
        expected = np.array(image.convert("RGB") if image.mode != "RGB" else image)
    assert expected.shape == (61, 83, 3)
    # bit by bit: both stand on the same codecs
    np.testing.assert_array_equal(decode(FILES[name]), expected)


def test_lossless_pixels_are_those_that_were_stored():
    np.testing.assert_array_equal(decode(FILES["png"]), np.array(picture()))


def test_alpha_is_dropped():
    image = picture().convert("RGBA")
    image.putalpha(7)
    np.testing.assert_array_equal(decode(encoded("PNG", image)), np.array(picture()))


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_anything_that_has_bytes_is_taken(kind):
    np.testing.assert_array_equal(decode(kind(FILES["png"])), np.array(picture()))


DAMAGED = [b"", b"no image", *(FILES["png"][:end] for end in (8, 20, 40, 500, -20))]


@pytest.mark.parametrize("damaged", [*DAMAGED, FILES["jpeg 4:4:4"][:20]])
def test_what_is_no_image_is_told(damaged):
    with pytest.raises(ValueError, match="cannot be decoded"):
        decode(damaged)


def test_a_damaged_png_is_told():
    """Its own checksum (Adler-32) covers the pixels."""
    content = bytearray(FILES["png"])
    content[content.index(b"IDAT") + 2000] ^= 1
    with pytest.raises(ValueError, match="cannot be decoded"):
        decode(content)


@pytest.mark.parametrize("size", [(1, 1), (3, 1), (1, 5), (400, 300)])
def test_pngs_of_any_size(size):
    """The largest fills more than one stored block."""
    values = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), np.uint8)
    np.testing.assert_array_equal(decode(encoded("PNG", Image.fromarray(values))), values)


@pytest.mark.parametrize("lost", range(41))
def test_a_png_cut_by_a_few_bytes_is_whole_or_told(lost):
    """12 bytes end the file, 4 check its last chunk; before them stands what checks the pixels."""
    content = FILES["png"][: len(FILES["png"]) - lost]
    if lost <= 16:
        np.testing.assert_array_equal(decode(content), np.array(picture()))
    else:
        with pytest.raises(ValueError, match="cannot be decoded: the file is truncated"):
            decode(content)


def test_rows_beyond_the_last_do_no_harm():
    """The file inflates to more than its header says, as no honest file does."""
    rows = b"".join(b"\0" + row.tobytes() for row in np.array(picture()))
    start = FILES["png"].index(b"IDAT") - 4
    packed = chunk(b"IDAT", zlib.compress(rows + bytes(1 << 20)))
    content = FILES["png"][:start] + packed + chunk(b"IEND", b"")
    np.testing.assert_array_equal(decode(content), np.array(picture()))
