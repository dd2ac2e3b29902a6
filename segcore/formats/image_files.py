"""Image files as people bring them, opened in one way, be they images or labels."""

import io
import re
import struct
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Integer, UInt8
from PIL import Image

from segcore.errors import InputError

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM")
"""Told by content. Pillow knows more: some run other programs, some drop bits without a word.
MPO comes with JPEG."""
LOSSY_COMPRESSION = {"jpeg", "tiff_jpeg", "webp"}
"""Of TIFF."""
BITS_PER_SAMPLE, ORIENTATION = 258, 274  # TIFF 6.0, section 8
PPM_HEADER = re.compile(rb"P[2356]" + rb"(?:\s|#[^\r\n]*)+(\d+)" * 3)
"""Width, height, the largest value."""


class ImageFile(NamedTuple):
    """A file whose header was read; ``loaded`` decodes the rest."""

    image: Image.Image
    content: bytes
    most: int
    """The largest value that a channel can hold: 255 of 8 bits."""

    @property
    def form(self) -> str:
        return self.image.format or ""

    @property
    def is_deep(self) -> bool:
        """Whether 8 bits per channel would not hold its values."""
        return self.most > 255 or self.image.mode.startswith(("I", "F"))

    @property
    def is_lossy(self) -> bool:
        """Whether its values are only nearly those that somebody stored."""
        if self.form == "WEBP":
            return not _is_lossless(self.content)
        packed = self.image.info.get("compression") if self.form == "TIFF" else ""
        return self.form in ("JPEG", "MPO") or packed in LOSSY_COMPRESSION

    def loaded(self) -> Image.Image:
        """The pixels as they are stored, never turned by EXIF, which labels know nothing of."""
        if self.form != "TIFF":
            self.image.load()
            return self.image
        self.image.getexif().pop(ORIENTATION, None)  # else Pillow turns a TIFF by itself
        self.image.load()
        return self.image.copy()  # the original still has the size of a turned one

    def rgb(self) -> UInt8[np.ndarray, "h w 3"]:
        """Whatever the mode is; alpha is dropped."""
        image = self.loaded()
        # a transparent palette has no direct way to RGB
        return np.asarray((image.convert("RGBA") if image.mode == "P" else image).convert("RGB"))

    def indices(self) -> Integer[np.ndarray, "h w"]:
        """The stored values: where fewer than 8 bits hold them, Pillow spreads grey up to 255."""
        image = self.loaded()
        if image.mode.startswith("I"):
            return np.asarray(image).astype(np.int32)
        values = np.asarray(image, np.uint8)
        if image.mode != "L" or self.most == 255:
            return values
        return ((values.astype(np.uint16) * self.most + 127) // 255).astype(np.uint8)


def opened(content: bytes) -> ImageFile:
    """Raises what Pillow raises."""
    image = Image.open(io.BytesIO(content), formats=FORMATS)
    return ImageFile(image, content, _most(image, content))


def opened_label(path: Path) -> ImageFile:
    """Raises InputError on a form that changes values, and what Pillow raises."""
    file = opened(path.read_bytes())
    if file.is_lossy:
        raise InputError(f"{path}: {file.form} changes the values of labels; store them as PNG")
    return file


def _most(image: Image.Image, content: bytes) -> int:
    if image.format == "PNG":
        return 2 ** content[24] - 1  # W3C PNG, 11.2.1
    if image.format == "TIFF":
        return 2 ** int(np.max(image.getexif().get(BITS_PER_SAMPLE, 1))) - 1
    if image.format == "PPM" and (header := PPM_HEADER.match(content)):
        return int(header[3])
    return 255


def _is_lossless(webp: bytes) -> bool:
    """Whether the picture of a WebP file, after RIFF's 12 bytes, is a chunk of lossless kind."""
    place = 12
    while place + 8 <= len(webp):
        kind, size = struct.unpack_from("<4sI", webp, place)
        if kind == b"VP8L":
            return True
        place += 8 + size + size % 2
    return False


def require_size(place: str, width: int, height: int) -> None:
    """Raises InputError where a label file that has no pixels asks for too many of them.

    The limit is Pillow's, as whoever reads files has set it.
    """
    if (most := Image.MAX_IMAGE_PIXELS) and width * height > most:
        raise InputError(f"{place}: {width}x{height} is more than {most} pixels; correct its size")
