"""One image with its labels -> the records that are stored: shrunk, cut, encoded where asked."""

from collections.abc import Iterator
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from segcore.preparation.images import Form, LabelMap, Picture, encoded
from segcore.shards import Record
from segcore.tables import Tile, Treatment
from segcore.types import IGNORE


class Stored(NamedTuple):
    """A record with what it was made of."""

    record: Record
    pixels: UInt8[np.ndarray, "h w 3"]
    labels: LabelMap
    overlap: int
    """Pixels whose labels are those of a neighbouring tile alone."""


class Span(NamedTuple):
    """Where a tile lies along one side, and which part of it has its labels there."""

    start: int
    stop: int
    first: int
    end: int

    @property
    def within(self) -> slice:
        """The same part, counted from where the tile begins."""
        return slice(self.first - self.start, self.end - self.start)


def treated(name: str, picture: Picture, labels: LabelMap, table: Treatment) -> Iterator[Stored]:
    """The records of one sample: one, or one per tile, named ``<name>@<top>-<left>``.

    Raises ValueError where the format cannot hold the image.
    """
    picture, labels = shrunk(picture, labels, table.max_side)
    if not table.tile or not _exceeds(labels, table.tile):
        yield _stored(name, picture, labels, table)
        return
    (height, width), overlap = table.tile.size, table.tile.overlap
    for down in spans(labels.shape[0], height, overlap):
        for across in spans(labels.shape[1], width, overlap):
            place = np.s_[down.start : down.stop, across.start : across.stop]
            own = np.s_[down.first : down.end, across.first : across.end]
            within = down.within, across.within
            piece = Picture(np.ascontiguousarray(picture.pixels[place]))
            kept = np.full(piece.pixels.shape[:2], IGNORE, np.uint8)
            kept[within] = labels[own]
            given = (down.end - down.first) * (across.end - across.first)
            part = f"{name}@{down.start}-{across.start}"
            yield _stored(part, piece, kept, table, kept.size - given)


def _exceeds(labels: LabelMap, tile: Tile) -> bool:
    return any(side > most for side, most in zip(labels.shape, tile.size, strict=True))


def spans(length: int, tile: int, overlap: int) -> list[Span]:
    """Tiles over ``length`` pixels, evenly, neighbours at least ``overlap`` in common.

    Labels belong to one tile alone, divided in the middle of what two share: every pixel counts
    once, in training, in class weights and in scores, and is seen with its surroundings.
    """
    if length <= tile:
        return [Span(0, length, 0, length)]
    count = -(-(length - overlap) // (tile - overlap))
    starts = [(length - tile) * number // (count - 1) for number in range(count)]
    middles = [(left + tile + right) // 2 for left, right in pairwise(starts)]
    firsts, ends = [0, *middles], [*middles, length]
    return [
        Span(start, start + tile, first, end)
        for start, first, end in zip(starts, firsts, ends, strict=True)
    ]


def shrunk(
    picture: Picture, labels: LabelMap, most: int | None
) -> tuple[Picture, UInt8[np.ndarray, "less_h less_w"]]:
    """Image (bicubic, antialiased) and labels (nearest) so that no side exceeds ``most``."""
    height, width = labels.shape
    if most is None or max(height, width) <= most:
        return picture, labels
    factor = most / max(height, width)
    size = max(1, round(width * factor)), max(1, round(height * factor))
    pixels = Image.fromarray(picture.pixels).resize(size, Image.Resampling.BICUBIC)
    small = Image.fromarray(labels).resize(size, Image.Resampling.NEAREST)
    return Picture(np.asarray(pixels)), np.asarray(small)


def _stored(
    name: str, picture: Picture, labels: LabelMap, table: Treatment, overlap: int = 0
) -> Stored:
    form: Form = "png" if table.image_format == "keep" else table.image_format
    own = picture.encoded and table.image_format in ("keep", picture.form)
    image = picture.encoded if own else encoded(picture.pixels, form)
    record = Record(name, image, labels.tobytes(), *labels.shape)
    return Stored(record, picture.pixels, labels, overlap)
