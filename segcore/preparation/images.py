"""Pictures as people bring them -> RGB, and RGB -> the bytes that are stored."""

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from segcore.decoding import decode
from segcore.formats.image_files import opened

MOST_PIXELS = 1 << 27
"""More are taken for a mistake, or an attack, unless somebody said what to do with them."""
MOST_PIXELS_CUT = 1 << 30
"""More than even an image that is to be shrunk or cut may have: they must fit into memory."""
FORMS = {"JPEG": "jpeg", "MPO": "jpeg", "PNG": "png", "WEBP": "webp"}
"""What is stored as it is. MPO: a JPEG file with a second picture behind it, as cameras write."""
ENCODINGS: dict[str, tuple[str, dict[str, int]]] = {
    "png": ("PNG", {}),
    "jpeg": ("JPEG", {"quality": 95, "subsampling": 0}),
    "webp": ("WEBP", {"quality": 95, "method": 4}),
}
LONGEST_SIDE = {"png": (1 << 31) - 1, "jpeg": 65500, "webp": 16383}
"""What the formats can hold, in pixels."""

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
    What is stored as it is must be whole for the decoder of training, so that one decodes it;
    of JPEG Pillow gives the same pixels, and notices where the file is cut short. Raises what
    they raise, and ValueError on more than 8 bits per channel.
    """
    file = opened(content)
    mode = file.image.mode
    if file.is_deep:
        bits = file.most.bit_length()
        raise ValueError(f"8 bits per channel are expected, this is {mode}, {bits} bits")
    form = FORMS.get(file.form, "") if mode == "RGB" else ""
    pixels = decode(content) if form in ("png", "webp") else file.rgb()
    return Picture(pixels, content if form else b"", form)


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
def pixel_limit(most: int) -> Iterator[None]:
    """Within it, images of more pixels raise."""
    before, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, most
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            yield
    finally:
        Image.MAX_IMAGE_PIXELS = before
