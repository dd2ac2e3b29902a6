"""Pictures as people bring them -> RGB, and RGB -> the bytes that are stored."""

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import UInt8
from PIL import Image

MOST_PIXELS = 1 << 27
"""More are taken for a mistake, or an attack, unless somebody said what to do with them."""
FORMS = {"JPEG": "jpeg", "MPO": "jpeg", "PNG": "png", "WEBP": "webp"}
"""What is stored as it is. MPO: a JPEG file with a second picture behind it, as cameras write."""
ENCODINGS: dict[str, tuple[str, dict[str, int]]] = {
    "png": ("PNG", {}),
    "jpeg": ("JPEG", {"quality": 95, "subsampling": 0}),
    "webp": ("WEBP", {"quality": 95, "method": 4}),
}
LONGEST_SIDE = {"png": (1 << 31) - 1, "jpeg": 65500, "webp": 16383}
"""What the formats can hold, in pixels."""
BITS_PER_SAMPLE = 258  # TIFF 6.0, section 8

Form = Literal["png", "jpeg", "webp"]

LabelMap = UInt8[np.ndarray, "h w"]
"""Train ids, or IGNORE."""


class Picture(NamedTuple):
    """A decoded image; ``encoded`` are its own bytes in ``form``, where they may be stored."""

    pixels: UInt8[np.ndarray, "h w 3"]
    encoded: bytes = b""
    form: str = ""


def decoded(content: bytes) -> Picture:
    """RGB whatever the file is, told by its content, not its name.

    EXIF orientation is left alone: labels were drawn on the stored pixels. Alpha is dropped.
    Raises what Pillow raises, and ValueError on more than 8 bits per channel.
    """
    with Image.open(io.BytesIO(content)) as image:
        image.load()
        depth = _depth(image, content)
        if depth > 8 or image.mode.startswith(("I", "F")):
            raise ValueError(f"8 bits per channel are expected, this is {image.mode}, {depth} bits")
        form = FORMS.get(image.format or "", "") if image.mode == "RGB" else ""
        # a transparent palette has no direct way to RGB
        rgb = (image.convert("RGBA") if image.mode == "P" else image).convert("RGB")
        return Picture(np.asarray(rgb), content if form else b"", form)


def _depth(image: Image.Image, content: bytes) -> int:
    """Bits per channel, where Pillow would drop some of them without a word."""
    if image.format == "PNG":
        return content[24]  # PNG specification, 11.2.1
    if image.format == "TIFF":
        return max(image.getexif().get(BITS_PER_SAMPLE, (8,)))
    return 16 if image.mode.startswith("I;16") else 8


def encoded(pixels: UInt8[np.ndarray, "h w 3"], form: Form) -> bytes:
    """Raises ValueError where the format cannot hold so large an image."""
    if max(pixels.shape) > LONGEST_SIDE[form]:
        height, width, _ = pixels.shape
        most = f"{form} holds at most {LONGEST_SIDE[form]} pixels a side"
        raise ValueError(f"{most}, this has {width}x{height}; set max_side or tile")
    buffer, (name, options) = io.BytesIO(), ENCODINGS[form]
    Image.fromarray(pixels).save(buffer, name, **options)
    return buffer.getvalue()


@contextmanager
def pixel_limit(huge: bool) -> Iterator[None]:
    """Within it, images of more than ``MOST_PIXELS`` raise unless ``huge``."""
    before, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None if huge else MOST_PIXELS
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            yield
    finally:
        Image.MAX_IMAGE_PIXELS = before
