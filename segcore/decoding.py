"""Encoded bytes of an image -> its pixels.

OpenCV, since it is the fastest of three on every kind of file that shards hold; Pillow and
torchvision.io give the same pixels. Most of what a PNG costs is inflating, which ISA-L does in
half the time of what OpenCV brings along. JPEG is never decoded at a reduced size: its low-pass
filter would make pixels depend on the drawn scale.
"""

import struct
from collections.abc import Iterator, Sequence
from typing import Any

import cv2
import numpy as np
from isal import isal_zlib
from jaxtyping import UInt8

Pixels = UInt8[np.ndarray, "h w 3"]
Part = bytes | memoryview

SIGNATURE = b"\x89PNG\r\n\x1a\n"
PLAIN = bytes((8, 2, 0, 0, 0))
"""The end of a PNG's header (W3C PNG, 11.2.1): 8 bits, RGB, the rows from top to bottom."""
MOST_BYTES = 1 << 30
"""A chunk of a PNG holds at most twice as many."""
INFLATE_ERROR: type[Exception] = vars(isal_zlib)["error"]
"""As it is declared, it would be no class."""
UNDECODABLE = "the bytes of an image cannot be decoded"
BLOCK = 65535
"""Bytes of a stored block of deflate (RFC 1951, 3.2.4)."""

# One core for each loader process: OpenCV's threads do not outlive a fork, and would be waited for.
cv2.setNumThreads(1)


def decode(encoded: Any) -> Pixels:
    """RGB pixels of a JPEG, PNG or WebP file, given as anything that has bytes.

    EXIF orientation is left alone and alpha is dropped. Raises ValueError where it is no image.
    """
    content = memoryview(encoded).cast("B")
    flags = cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION
    try:
        if bytes(content[:8]) == SIGNATURE:
            content = inflated(content)
        pixels = cv2.imdecode(np.frombuffer(content, np.uint8), flags)
    except (cv2.error, INFLATE_ERROR, struct.error) as error:
        raise ValueError(f"{UNDECODABLE}: {error}") from None
    if pixels is None:
        raise ValueError(UNDECODABLE)
    return np.asarray(pixels, np.uint8)


def inflated(content: memoryview) -> memoryview:
    """The same PNG with its rows stored, not deflated, and without what says nothing of pixels.

    Other PNGs than 8-bit RGB without interlacing come back as they are. Raises struct.error and
    INFLATE_ERROR where the file is cut short or damaged.
    """
    chunks = list(_chunks(content))
    header = bytes(next((data for kind, data in chunks if kind == b"IHDR"), b""))
    width, height = struct.unpack_from(">II", header)
    size = height * (1 + 3 * width)
    if header[8:] != PLAIN or size >= MOST_BYTES:
        return content
    packed = b"".join(data for kind, data in chunks if kind == b"IDAT")
    inflater = isal_zlib.decompressobj()
    rows = inflater.decompress(packed, size + 1)  # one more, so that what ends there says so
    if len(rows) <= size and not inflater.eof:
        raise INFLATE_ERROR("the file is truncated")
    if len(rows) < size:
        return content
    rows = rows[:size]  # a small file may inflate to gigabytes, which libpng would wait for
    plain = (b"IHDR", [header]), (b"IDAT", _stored(rows)), (b"IEND", [])
    parts = (part for kind, data in plain for part in _chunk(kind, data))
    return memoryview(b"".join((SIGNATURE, *parts)))


def _chunks(content: memoryview) -> Iterator[tuple[bytes, memoryview]]:
    """Kinds and data. An end that is missing is no harm where the pixels are all there."""
    place = len(SIGNATURE)
    while place + 12 <= len(content):
        length, kind = struct.unpack_from(">I4s", content, place)
        yield kind, content[place + 8 : place + 8 + length]
        place += 12 + length


def _chunk(kind: bytes, parts: Sequence[Part]) -> Iterator[Part]:
    checksum = isal_zlib.crc32(kind)
    for part in parts:
        checksum = isal_zlib.crc32(part, checksum)
    yield struct.pack(">I4s", sum(map(len, parts)), kind)
    yield from parts
    yield struct.pack(">I", checksum)


def _stored(data: bytes) -> list[Part]:
    """As a zlib stream without compression; in parts, since each copy costs time."""
    parts: list[Part] = [b"\x78\x01"]
    for first in range(0, len(data), BLOCK):
        block = memoryview(data)[first : first + BLOCK]
        last = first + BLOCK >= len(data)
        parts += [struct.pack("<BHH", last, len(block), len(block) ^ BLOCK), block]
    parts.append(struct.pack(">I", isal_zlib.adler32(data)))
    return parts
