"""The words every module shares. Shape letters: b images, k classes, c channels, h w pixels."""

from dataclasses import dataclass
from typing import NamedTuple

from jaxtyping import Float, Integer, UInt8
from torch import Tensor

IGNORE = 255
"""The one label that means "not labelled"; raw void ids are mapped to it by ``prepare``."""

Images = Float[Tensor, "b 3 h w"]
"""Normalised RGB, as networks take it."""

Labels = Integer[Tensor, "b h w"]
"""Class per pixel, or ``IGNORE``."""


class Sample(NamedTuple):
    """One image as it was decoded (0 to 255), with its labels and its name."""

    id: str
    image: UInt8[Tensor, "3 h w"]
    labels: UInt8[Tensor, "h w"]


class Batch(NamedTuple):
    """Images as they were decoded (0 to 255) with their labels; normalised on the device."""

    images: UInt8[Tensor, "b 3 h w"]
    labels: UInt8[Tensor, "b h w"]
    ids: tuple[str, ...]


class Prediction(NamedTuple):
    """What a segmenter returns, at whatever stride it computes; callers resize.

    ``auxiliary`` is supervised like ``logits``, with less weight; ``presence`` says whether
    class k occurs anywhere in the image.
    """

    logits: Float[Tensor, "b k h w"]
    auxiliary: tuple[Tensor, ...] = ()
    presence: Float[Tensor, "b k"] | None = None


@dataclass(frozen=True)
class ClassTable:
    """The classes of a dataset in train-id order: names, display colours, left/right pairs.

    ``mirror[i]`` is the class that class i becomes in a mirrored image (itself, mostly).
    """

    names: tuple[str, ...]
    colours: tuple[tuple[int, int, int], ...]
    mirror: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.names)
