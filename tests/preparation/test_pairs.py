"""One image and its label: what prepare reads is what training reads, or it is one message."""

import io
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from segcore.datasets import Dataset, Pair, build_dataset
from segcore.decoding import decode
from segcore.errors import InputError
from segcore.preparation import images
from segcore.preparation.images import decoded, encoded
from segcore.preparation.pairs import read_pair
from segcore.tables import Treatment

PIXELS = np.random.default_rng(0).integers(0, 256, (12, 16, 3), np.uint8)
RGB = Image.fromarray(PIXELS)


def saved(image: Image.Image, form: str, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


@pytest.fixture
def dataset() -> Dataset:
    return build_dataset("shapes", {})


def pair_of(folder: Path, image: bytes, label: bytes | None = None) -> Pair:
    places = folder / "a.jpg", folder / "a.png"
    labels = saved(Image.new("L", (16, 12)), "PNG") if label is None else label
    for place, content in zip(places, (image, labels), strict=True):
        place.write_bytes(content)
    return Pair("a", *places)


def problem_of(dataset: Dataset, pair: Pair, **keys) -> str:
    with pytest.raises(InputError) as caught:
        read_pair(dataset, pair, Treatment.model_validate(keys))
    return str(caught.value)


# --- the same decoder ----------------------------------------------------------------------------


def stored_as_is(content: bytes) -> bytes:
    """What the shard of this image holds."""
    picture = decoded(content)
    return picture.encoded or encoded(picture.pixels, "png")


def ycck_jpeg() -> bytes:
    """Adobe's transform 2: CMYK as YCC and K, which Pillow writes for CMYK."""
    content = saved(RGB.convert("CMYK"), "JPEG", quality=95)
    place = content.index(b"Adobe") + 11
    return content[:place] + b"\x02" + content[place + 1 :]


SEVERAL = [RGB.rotate(180), RGB.rotate(90, expand=False)]
KINDS = {
    "animated WebP": saved(RGB, "WEBP", save_all=True, append_images=SEVERAL, lossless=True),
    "WebP": saved(RGB, "WEBP", quality=80),
    "APNG": saved(RGB, "PNG", save_all=True, append_images=SEVERAL),
    "APNG with a default image": saved(
        RGB, "PNG", save_all=True, append_images=SEVERAL, default_image=True
    ),
    "YCCK JPEG": ycck_jpeg(),
    "CMYK JPEG": saved(RGB.convert("CMYK"), "JPEG"),
    "JPEG": saved(RGB, "JPEG"),
    "PNG": saved(RGB, "PNG"),
    "TIFF": saved(RGB, "TIFF"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_prepare_and_training_see_the_same_pixels(kind):
    content = KINDS[kind]
    picture = decoded(content)
    assert picture.pixels.shape == (12, 16, 3)
    assert np.array_equal(decode(stored_as_is(content)), picture.pixels)
    with Image.open(io.BytesIO(content)) as image:
        assert np.array_equal(picture.pixels, np.asarray(image.convert("RGB")))


@pytest.mark.parametrize("kind", ["PNG", "WebP", "animated WebP", "APNG"])
def test_a_file_cut_anywhere_is_told_by_prepare_or_harmless_to_training(kind):
    content, whole = KINDS[kind], decoded(KINDS[kind]).pixels
    refused = 0
    for lost in [*range(41), *range(41, len(content), 37)]:
        cut = content[: len(content) - lost]
        try:
            picture = decoded(cut)
        except Exception:
            refused += 1
            continue
        assert np.array_equal(picture.pixels, whole), lost
        assert np.array_equal(decode(stored_as_is(cut)), whole), lost
    assert refused


def bomb(width: int, height: int, inflated: int) -> bytes:
    """A PNG of few bytes whose rows inflate to far more than its header says."""
    packer = zlib.compressobj(9)
    block, parts = bytes(1 << 20), list[bytes]()
    for _ in range(inflated >> 20):
        parts.append(packer.compress(block))
    parts.append(packer.flush())

    def chunk(kind: bytes, data: bytes) -> bytes:
        body = kind + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    whole = chunk(b"IHDR", header) + chunk(b"IDAT", b"".join(parts)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + whole


INFLATING = """
import resource, sys
from segcore.decoding import decode
content, first = (open(path, "rb").read() for path in sys.argv[1:])
decode(first)  # what a first call loads is no part of it
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
try:
    print(decode(content).any())
except ValueError as error:
    print(error)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="counts in kilobytes")
def test_a_small_png_that_inflates_without_end_takes_little_memory(tmp_path: Path):
    (tmp_path / "bomb.png").write_bytes(bomb(64, 64, 1 << 27))
    (tmp_path / "first.png").write_bytes(KINDS["PNG"])
    arguments = [str(tmp_path / name) for name in ("bomb.png", "first.png")]
    done = subprocess.run(
        [sys.executable, "-c", INFLATING, *arguments], capture_output=True, text=True, check=True
    )
    assert int(done.stdout.splitlines()[-1]) < 32 << 10, done.stdout


# --- one message, whatever happens ----------------------------------------------------------------


@pytest.mark.parametrize("mode", ["1", "L", "P", "I;16", "RGB", "CMYK"])
def test_every_kind_of_tiff_ends_in_pixels_or_a_message(tmp_path, dataset, mode):
    image = {
        "I;16": Image.fromarray(PIXELS[..., 0].astype(np.uint16) * 257),
        "P": RGB.quantize(16),
    }.get(mode) or RGB.convert(mode)
    pair = pair_of(tmp_path, saved(image, "TIFF"))
    if mode == "I;16":
        assert "8 bits per channel are expected, this is I;16, 16 bits" in problem_of(dataset, pair)
        return
    picture, _ = read_pair(dataset, pair, Treatment())
    assert np.array_equal(picture.pixels, np.asarray(image.convert("RGB")))


@pytest.mark.parametrize(
    "error", [IndexError("x"), KeyError("x"), TypeError("x"), AssertionError(), MemoryError()]
)
def test_whatever_a_decoder_raises_is_blamed_on_its_file(tmp_path, dataset, monkeypatch, error):
    def fail(path: Path) -> None:
        raise error

    monkeypatch.setattr(dataset, "read_labels", fail)
    said = problem_of(dataset, pair_of(tmp_path, KINDS["PNG"]))
    assert said == f"{tmp_path}/a.png cannot be decoded: {str(error) or type(error).__name__}"


@pytest.mark.parametrize("most", [256, 65535])
def test_a_deep_ppm_is_refused(tmp_path, dataset, most):
    content = f"P6\n16 12\n{most}\n".encode() + PIXELS.astype(">u2").tobytes()
    said = problem_of(dataset, pair_of(tmp_path, content))
    assert f"8 bits per channel are expected, this is RGB, {most.bit_length()} bits" in said


def test_a_label_of_sixteen_bits_is_read_where_its_values_are_known(tmp_path, dataset):
    values = np.arange(192, dtype=np.uint16).reshape(12, 16) % 3
    pair = pair_of(tmp_path, KINDS["PNG"], saved(Image.fromarray(values), "PNG"))
    _, labels = read_pair(dataset, pair, Treatment())
    assert labels.tolist() == values.tolist()
    values[3, 4] = 9999
    pair = pair_of(tmp_path, KINDS["PNG"], saved(Image.fromarray(values), "PNG"))
    assert "outside the class table: 9999 (1 pixels)" in problem_of(dataset, pair)


def test_a_lossy_label_is_refused_by_name(tmp_path, dataset):
    pair = pair_of(tmp_path, KINDS["PNG"], saved(Image.new("L", (16, 12)), "JPEG"))
    said = problem_of(dataset, pair)
    assert said == f"{tmp_path}/a.png: JPEG changes the values of labels; store them as PNG"


def test_even_what_is_to_be_cut_has_a_limit(tmp_path, dataset, monkeypatch):
    monkeypatch.setattr(images, "MOST_PIXELS", 100)
    monkeypatch.setattr(images, "MOST_PIXELS_CUT", 150)
    pair = pair_of(tmp_path, KINDS["PNG"])
    assert problem_of(dataset, pair).endswith(
        "more than 100 pixels; set max_side or tile to use it"
    )
    assert problem_of(dataset, pair, max_side=8).endswith("more than 150 pixels; make it smaller")
    monkeypatch.setattr(images, "MOST_PIXELS_CUT", 192)
    assert read_pair(dataset, pair, Treatment(max_side=8))
