"""Images that strangers send: the same labels as everywhere, and what is refused."""

import base64
import io
import struct
import zlib
from contextlib import suppress
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from segcore.decoding import decode
from segcore.errors import InputError
from segcore.inference import predictor
from segcore.pictures import overlay
from segcore.serving import MOST_PIXELS, answer
from segcore.tables import TestTime
from segcore.types import ClassTable

CLASSES = ClassTable(("red", "green", "blue"), ((255, 0, 0), (0, 255, 0), (0, 0, 255)), (0, 1, 2))


class Brightest(nn.Module):
    """Class = brightest channel: labels one can see from the pixels. Counts its passes."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))
        self.passes = 0

    def forward(self, images: torch.Tensor) -> SimpleNamespace:
        self.passes += 1
        return SimpleNamespace(logits=images * self.scale)


@pytest.fixture
def network() -> Brightest:
    return Brightest().eval()


def photo(height: int = 40, width: int = 56, seed: int = 0) -> np.ndarray:
    """Smooth, as JPEG likes it."""
    small = np.random.default_rng(seed).integers(0, 256, (5, 7, 3), np.uint8)
    return cv2.resize(small, (width, height), interpolation=cv2.INTER_CUBIC)


def encoded(pixels: np.ndarray, form: str = "PNG", **options: Any) -> bytes:
    Image.fromarray(pixels).save(file := io.BytesIO(), form, **options)
    return file.getvalue()


def brightest(pixels: np.ndarray) -> np.ndarray:
    mean, std = np.array((123.675, 116.28, 103.53)), np.array((58.395, 57.12, 57.375))
    return ((pixels - mean) / std).argmax(-1).astype(np.uint8)


def opened(content: bytes) -> Image.Image:
    return Image.open(io.BytesIO(content))


@pytest.mark.parametrize("form", ["PNG", "JPEG"])
@pytest.mark.parametrize("as_it_comes", ["bytes", "base64", "base64 in lines", "text"])
def test_a_file_is_answered_with_labels_and_overlay(
    network: Brightest, form: str, as_it_comes: str
):
    content = encoded(photo(), form)
    given: Any = {
        "bytes": content,
        "base64": np.bytes_(base64.b64encode(content)),
        "base64 in lines": base64.encodebytes(content),
        "text": base64.b64encode(content).decode(),
    }[as_it_comes]
    (answered,) = answer(network, CLASSES, [{"image": given, "pixels": float("nan")}])
    pixels = decode(content)
    expected = brightest(pixels)
    assert len(np.unique(expected)) == 3
    with opened(answered["labels"]) as labels:
        assert labels.mode == "P"
        np.testing.assert_array_equal(np.asarray(labels), expected)
        np.testing.assert_array_equal(
            np.asarray(labels.convert("RGB")), np.array(CLASSES.colours)[expected]
        )
    with opened(answered["overlay"]) as painted:
        image = torch.from_numpy(pixels).permute(2, 0, 1)
        drawn = overlay(image, torch.from_numpy(expected), CLASSES).permute(1, 2, 0).numpy()
        np.testing.assert_array_equal(np.asarray(painted), drawn)


def test_arrays_and_lists_are_answered_with_arrays_in_their_order(network: Brightest):
    first, second = photo(seed=1), photo(33, 21, seed=2)
    rows = [{"pixels": first}, {"image": encoded(first)}, {"pixels": second.tolist()}]
    found = answer(network, CLASSES, rows)
    assert [sorted(each) for each in found] == [["label_map"], ["labels", "overlay"], ["label_map"]]
    np.testing.assert_array_equal(found[0]["label_map"], brightest(first))
    np.testing.assert_array_equal(found[2]["label_map"], brightest(second))
    assert found[2]["label_map"].dtype == np.uint8


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "LA", "I;16", "CMYK"])
def test_other_kinds_of_files_are_read_as_in_training(network: Brightest, mode: str):
    if mode == "I;16":
        grey = cv2.cvtColor(photo(), cv2.COLOR_RGB2GRAY).astype(np.uint16) * 257
        content = cv2.imencode(".png", grey)[1].tobytes()
    else:
        Image.fromarray(photo()).convert("L" if mode == "LA" else "RGB").convert(mode).save(
            file := io.BytesIO(), "JPEG" if mode == "CMYK" else "PNG"
        )
        content = file.getvalue()
    (answered,) = answer(network, CLASSES, [{"image": content}])
    with opened(answered["labels"]) as labels:
        np.testing.assert_array_equal(np.asarray(labels), brightest(decode(content)))


def test_images_are_looked_at_as_the_row_says(network: Brightest):
    how = TestTime(resize=9)
    found = [row["label_map"] for row in answer(network, CLASSES, [{"pixels": photo()}], how)]
    image = torch.from_numpy(photo()).permute(2, 0, 1)[None]
    np.testing.assert_array_equal(found, predictor(how, CLASSES.mirror)(network, image))
    assert (found[0] != brightest(photo())).any()


def test_a_narrow_image_does_not_become_an_endless_one(network: Brightest):
    said = "image 0: 2x3000 pixels, which the model looks at as 520x780000: at most 16777216"
    with pytest.raises(InputError, match=said):
        answer(network, CLASSES, [{"image": encoded(photo(2, 3000))}], TestTime(resize=520))
    assert network.passes == 0


# --- what is refused -----------------------------------------------------------------------------


def png_of(width: int, height: int, rows: bytes) -> bytes:
    """A PNG whose header says what it likes."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        check = struct.pack(">I", zlib.crc32(kind + data))
        return struct.pack(">I", len(data)) + kind + data + check

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    parts = (b"IHDR", header), (b"IDAT", zlib.compress(rows, 9)), (b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts)


def progressive_of_many_scans() -> bytes:
    content = encoded(photo(), "JPEG", progressive=True)
    last = content.rindex(b"\xff\xda")
    return content[:last] + content[last:-2] * 200 + content[-2:]


HUGE = png_of(60000, 60000, b"")
WRONG: list[tuple[str, dict[str, Any], str]] = [
    ("nothing", {}, "image 1 needs exactly one of image .* and pixels"),
    ("both", {"image": encoded(photo()), "pixels": photo()}, "image 1 needs exactly one of"),
    ("a number", {"image": 3}, "image 1 needs exactly one of"),
    ("empty", {"image": b""}, r"image 1 \(0 bytes\) is no JPEG or PNG"),
    ("text", {"image": b"<script>"}, "is no JPEG or PNG"),
    ("not base64", {"image": b"!!!!"}, "is no JPEG or PNG"),
    ("a GIF", {"image": encoded(photo(), "GIF")}, "is no JPEG or PNG"),
    ("half a header", {"image": encoded(photo())[:20]}, "is no JPEG or PNG"),
    ("half a JPEG header", {"image": encoded(photo(), "JPEG")[:100]}, "is no JPEG or PNG"),
    ("header alone", {"image": png_of(64, 64, b"")}, "image 1 is damaged"),
    ("huge", {"image": HUGE}, "image 1 .*(no JPEG or PNG|60000x60000)"),
    ("large", {"image": png_of(5000, 5000, b"")}, "image 1 is 5000x5000: .* at most 16777216"),
    ("scans", {"image": progressive_of_many_scans()}, "more than 100 scans"),
    ("floats", {"pixels": photo() / 255}, r"pixels must be uint8 .* float64 \[40, 56, 3\]"),
    ("no colours", {"pixels": photo()[..., 0]}, r"pixels must be uint8 .* uint8 \[40, 56\]"),
    ("ragged", {"pixels": [[[1, 2, 3]], [[1, 2]]]}, "pixels must be uint8"),
    ("beyond 255", {"pixels": [[[1, 2, 256]]]}, "pixels must be uint8"),
    ("below 0", {"pixels": [[[1, 2, -1]]]}, "pixels must be uint8"),
    ("words", {"pixels": [["red"]]}, "pixels must be uint8"),
    ("no pixels", {"pixels": []}, "pixels must be uint8"),
]


@pytest.mark.parametrize(("row", "said"), [each[1:] for each in WRONG], ids=[w[0] for w in WRONG])
def test_what_cannot_be_used_is_refused_by_its_place(
    network: Brightest, row: dict[str, Any], said: str
):
    with pytest.raises(InputError, match=said):
        answer(network, CLASSES, [{"image": encoded(photo(8, 8))}, row])


def test_a_request_without_a_row_is_refused(network: Brightest):
    with pytest.raises(InputError, match="holds no image"):
        answer(network, CLASSES, [])


def test_many_files_that_are_too_large_together_are_refused_before_one_is_decoded(
    network: Brightest,
):
    side = 1 << 11
    file = encoded(np.zeros((side, side, 3), np.uint8))
    rows = [{"image": file}] * (MOST_PIXELS // side**2 + 1)
    with pytest.raises(InputError, match=r"image 4 is 2048x2048: .* or several requests"):
        answer(network, CLASSES, rows)
    assert network.passes == 0


@pytest.mark.long
def test_a_small_png_that_unpacks_to_much_takes_no_memory(network: Brightest):
    """64 MB in its data, of which 4x4 pixels need 52 bytes."""
    from segcore.memory import peak_memory

    content = png_of(4, 4, bytes(64 << 20))
    assert len(content) < 100_000

    def ask() -> None:
        with suppress(InputError):
            answer(network, CLASSES, [{"image": content}])

    ask()
    assert peak_memory(ask, torch.device("cpu")) < 16e6
