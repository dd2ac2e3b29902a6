"""Pure functions of (image, labels, generator): what a training sample becomes.

A training crop is drawn first and only its window of the source is resized: the same pixels as
resizing the whole image and cropping, without computing those that are thrown away.
"""

from collections.abc import Callable
from dataclasses import dataclass
from math import cos, radians, sin, sqrt

import cv2
import numpy as np
import torch
from jaxtyping import Float64, UInt8
from torch import Tensor

from segcore.pixels import (
    PADDING,
    Image,
    LabelMap,
    NewImage,
    NewLabelMap,
    flip,
    image_of,
    largest_share,
    pad,
    photometric_distortion,
    pixels_of,
    resize_image,
    resize_labels,
    shift_brightness,
)
from segcore.types import IGNORE, Images, Sample

MEAN = (123.675, 116.28, 103.53)
STD = (58.395, 57.12, 57.375)
DRAWS = 10
"""How many crops are drawn at most until no class has too much of one."""


@dataclass(frozen=True)
class Augmentation:
    """What happens to a training sample, in this order: resize, scale, turn and crop, flip,
    colours. Sizes are (height, width) in pixels.

    ``resize`` is the length that the short side gets, or a size that the image is stretched to.
    ``scale`` and ``aspect`` are ranges: of the factor of both sides, and of the width over the
    height that it is distorted by. ``rotation`` is the most degrees that every second image is
    turned by. ``max_class_share`` is the largest share of the labelled pixels of a crop that one
    class may have before another crop is drawn (10 draws). ``flip`` is a probability, ``mirror``
    the class that each class becomes in a mirrored image, ``brightness`` the most levels that are
    added or taken away. ``relabel`` makes other labels of those that all this left.
    """

    crop: tuple[int, int]
    scale: tuple[float, float] = (0.5, 2.0)
    max_class_share: float = 0.75
    flip: float = 0.5
    photometric: bool = True
    mirror: tuple[int, ...] = ()
    resize: int | tuple[int, int] | None = None
    aspect: tuple[float, float] = (1.0, 1.0)
    rotation: float = 0.0
    brightness: int = 0
    relabel: Callable[[LabelMap], LabelMap] | None = None

    def __call__(self, sample: Sample, generator: np.random.Generator) -> Sample:
        image, labels = random_crop(sample.image, sample.labels, generator, self)
        if generator.random() < self.flip:
            image, labels = flip(image, labels, self.mirror)
        if self.brightness:
            image = shift_brightness(image, generator, self.brightness)
        if self.photometric:
            image = photometric_distortion(image, generator)
        if self.relabel:
            labels = self.relabel(labels)
        return Sample(sample.id, image, labels)


@dataclass(frozen=True)
class Window:
    """A part of the source, resized to ``size``."""

    rows: slice
    columns: slice
    size: tuple[int, int]

    def image(self, source: Image) -> NewImage:
        return resize_image(source[:, self.rows, self.columns], self.size)

    def labels(self, source: LabelMap) -> NewLabelMap:
        return resize_labels(source[self.rows, self.columns], self.size)


@dataclass(frozen=True)
class TurnedWindow:
    """``size`` pixels; ``places`` @ (x, y, 1) is where pixel (x, y) lies in the source."""

    places: Float64[np.ndarray, "2 3"]
    size: tuple[int, int]

    def image(self, source: Image) -> NewImage:
        return image_of(self._taken(pixels_of(source), cv2.INTER_LINEAR, PADDING))

    def labels(self, source: LabelMap) -> NewLabelMap:
        return torch.from_numpy(self._taken(source.numpy(), cv2.INTER_NEAREST, (IGNORE,)))

    def _taken(self, source: np.ndarray, how: int, outside: tuple[int, ...]) -> np.ndarray:
        flags, border = how | cv2.WARP_INVERSE_MAP, cv2.BORDER_CONSTANT
        return cv2.warpAffine(source, self.places, self.size[::-1], None, flags, border, outside)


def random_crop(
    image: Image, labels: LabelMap, generator: np.random.Generator, how: Augmentation
) -> tuple[NewImage, NewLabelMap]:
    """A crop of the resized and perhaps turned image; padded where that ends."""
    drawn = _windows(tuple(labels.shape), generator, how)
    place = drawn()
    found = place.labels(labels)
    for _ in range(DRAWS - 1):
        if how.max_class_share == 1 or largest_share(found) <= how.max_class_share:
            break
        place = drawn()
        found = place.labels(labels)
    return pad(place.image(image), found, how.crop)


def _windows(
    size: tuple[int, ...], generator: np.random.Generator, how: Augmentation
) -> Callable[[], Window | TurnedWindow]:
    """Draws how the whole image is resized and turned; returns what draws places in it."""
    factors = draw_factors(size, generator, how)
    if not how.rotation or generator.random() >= 0.5:
        axes = [_window(*each) for each in zip(size, how.crop, factors, strict=True)]
        (height, new_height), (width, new_width) = axes

        def straight() -> Window:
            top = int(generator.integers(size[0] - height + 1))
            left = int(generator.integers(size[1] - width + 1))
            rows, columns = slice(top, top + height), slice(left, left + width)
            return Window(rows, columns, (new_height, new_width))

        return straight
    degrees = float(generator.uniform(-how.rotation, how.rotation))
    resized = tuple(max(round(s * f), 1) for s, f in zip(size, factors, strict=True))
    new_size = min(how.crop[0], resized[0]), min(how.crop[1], resized[1])

    def turned() -> TurnedWindow:
        top = int(generator.integers(resized[0] - new_size[0] + 1))
        left = int(generator.integers(resized[1] - new_size[1] + 1))
        return TurnedWindow(_places(size, resized, degrees, (top, left)), new_size)

    return turned


def draw_factors(
    size: tuple[int, ...], generator: np.random.Generator, how: Augmentation
) -> tuple[float, float]:
    """What height and width are multiplied by, ``resize`` included."""
    factor = generator.uniform(*how.scale)
    match how.resize:
        case None:
            height, width = factor, factor
        case int(short_side):
            height = width = factor * short_side / min(size)
        case (new_height, new_width):
            height, width = factor * new_height / size[0], factor * new_width / size[1]
    if how.aspect != (1, 1):
        distortion = sqrt(generator.uniform(*how.aspect))
        height, width = height / distortion, width * distortion
    return float(height), float(width)


def _window(size: int, crop: int, factor: float) -> tuple[int, int]:
    """How many source pixels a crop covers along one axis, and how many they become."""
    resized = max(round(size * factor), 1)
    if resized < crop:  # the whole axis; the rest of the crop is padding
        return size, resized
    return min(max(round(crop / factor), 1), size), crop


def _places(
    size: tuple[int, ...], resized: tuple[int, ...], degrees: float, corner: tuple[int, int]
) -> Float64[np.ndarray, "2 3"]:
    """From a pixel of the crop at ``corner`` to its place in the source, in pixels (x, y).

    The image is resized, then turned about its centre, counter-clockwise as one looks at it.
    """
    sine, cosine = sin(radians(degrees)), cos(radians(degrees))
    back = np.array([[cosine, -sine], [sine, cosine]])
    shrink = np.array([size[1] / resized[1], size[0] / resized[0]])
    centre = np.array([resized[1], resized[0]]) / 2
    first = np.array(corner[::-1]) + 0.5 - centre  # pixel (0, 0) of the crop, from the centre
    shift = (back @ first + centre) * shrink - 0.5
    return np.column_stack([back * shrink[:, None], shift])


def normalise(images: UInt8[Tensor, "b 3 h w"], *, channels_last: bool = False) -> Images:
    """Minus the ImageNet mean, by its deviation, channel by channel; on the images' device."""
    mean, std = (torch.tensor(each, device=images.device) for each in (MEAN, STD))
    if not channels_last:
        values = images.to(torch.float32, memory_format=torch.contiguous_format)
        return values.sub_(mean.view(1, 3, 1, 1)).div_(std.view(1, 3, 1, 1))
    values = images.to(torch.float32, memory_format=torch.channels_last)
    # Row by row: torch is slow where its innermost loop has three turns.
    rows, width = values.permute(0, 2, 3, 1).flatten(2), images.shape[3]
    rows.sub_(mean.repeat(width)).div_(std.repeat(width))
    return values
