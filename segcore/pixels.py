"""What is done to one image, or to its labels. Images are uint8 RGB, 0 to 255.

Tensors are (3, h, w) but lie in memory pixel by pixel, as decoders leave them and OpenCV takes
them; others are copied first.
"""

import cv2
import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor

from segcore.decoding import Pixels
from segcore.types import IGNORE

PADDING = (124, 116, 104)
"""The mean, so that padded pixels are 0 once normalised."""

Image = UInt8[Tensor, "3 h w"]
LabelMap = UInt8[Tensor, "h w"]
NewImage = UInt8[Tensor, "3 new_h new_w"]
NewLabelMap = UInt8[Tensor, "new_h new_w"]


def pixels_of(image: Image) -> Pixels:
    """The same memory, pixel by pixel."""
    return image.permute(1, 2, 0).numpy()


def image_of(pixels: np.ndarray) -> Image:
    return torch.from_numpy(pixels).permute(2, 0, 1)


def resize_image(image: Image, size: tuple[int, int]) -> NewImage:
    """Bilinear, half-pixel centres, without low-pass filter, as the recipes do."""
    if image.shape[-2:] == size:
        return image
    return image_of(cv2.resize(pixels_of(image), size[::-1], interpolation=cv2.INTER_LINEAR))


def resize_labels(labels: LabelMap, size: tuple[int, int]) -> NewLabelMap:
    """The nearest label, half-pixel centres."""
    if labels.shape == size:
        return labels
    resized = cv2.resize(labels.numpy(), size[::-1], interpolation=cv2.INTER_NEAREST_EXACT)
    return torch.from_numpy(resized)


def pad(image: Image, labels: LabelMap, size: tuple[int, int]) -> tuple[NewImage, NewLabelMap]:
    """Fills up to ``size`` below and to the right: image with the mean, labels with IGNORE."""
    height, width = labels.shape
    if (height, width) == size:
        return image, labels
    ends = 0, size[0] - height, 0, size[1] - width
    framed = cv2.copyMakeBorder(pixels_of(image), *ends, cv2.BORDER_CONSTANT, value=PADDING)
    relabelled = cv2.copyMakeBorder(labels.numpy(), *ends, cv2.BORDER_CONSTANT, value=(IGNORE,))
    return image_of(framed), torch.from_numpy(relabelled)


def flip(image: Image, labels: LabelMap, mirror: tuple[int, ...]) -> tuple[Image, LabelMap]:
    """Left and right exchanged, and with them the classes that have a left and a right form."""
    flipped = torch.from_numpy(cv2.flip(labels.numpy(), 1))
    return image_of(cv2.flip(pixels_of(image), 1)), swap_sides(flipped, mirror)


def swap_sides(labels: LabelMap, mirror: tuple[int, ...]) -> LabelMap:
    """Exchanges the classes that have a left and a right form."""
    if mirror == tuple(range(len(mirror))):
        return labels
    table = np.arange(256, dtype=np.uint8)
    table[: len(mirror)] = mirror
    return torch.from_numpy(cv2.LUT(labels.numpy(), table))


def largest_share(labels: LabelMap) -> float:
    """The share of the most frequent class among labelled pixels; 1 where there are none."""
    counts = cv2.calcHist([labels.numpy()], [0], None, [256], [0, 256])[:IGNORE]
    total = counts.sum(dtype=np.float64)
    return float(counts.max() / total) if total else 1.0


def shift_brightness(image: Image, generator: np.random.Generator, most: int) -> Image:
    """Every channel plus the same whole number, -``most`` to ``most``, as openseg.pytorch does."""
    shift = int(generator.integers(-most, most, endpoint=True))
    levels = (np.arange(256) + shift).clip(0, 255).astype(np.uint8)
    return image_of(cv2.LUT(pixels_of(image), levels))


def photometric_distortion(image: Image, generator: np.random.Generator) -> Image:
    """Brightness, contrast, saturation and hue, each with probability 1/2.

    The ranges and the order of SSD (Liu et al., 2016, arXiv:1512.02325) as MMSegmentation uses
    them: brightness +-32, contrast and saturation x 0.5 to 1.5, hue +-36 degrees; contrast
    before or after the other two by the toss of a coin.
    """
    brightness = float(generator.uniform(-32, 32)) if generator.random() < 0.5 else 0.0
    contrast = float(generator.uniform(0.5, 1.5)) if generator.random() < 0.5 else 1.0
    before, after = (contrast, 1.0) if generator.random() < 0.5 else (1.0, contrast)
    saturation = float(generator.uniform(0.5, 1.5)) if generator.random() < 0.5 else 1.0
    degrees = float(generator.uniform(-36, 36)) if generator.random() < 0.5 else 0.0
    levels = ((np.arange(256) + brightness).clip(0, 255) * before).clip(0, 255)
    pixels = pixels_of(image)
    if saturation == 1 and degrees == 0:  # a colour's channels do not mix: one table for all
        return image_of(cv2.LUT(pixels, (levels * after).clip(0, 255).round().astype(np.uint8)))
    values = cv2.LUT(pixels, levels.astype(np.float32))
    return image_of(cv2.convertScaleAbs(_turned(values, saturation, degrees), alpha=after))


def _turned(values: np.ndarray, saturation: float, degrees: float) -> np.ndarray:
    """float32 RGB with HSV saturation times a factor, at most 1, and hue turned; in place."""
    hsv = cv2.cvtColor(values, cv2.COLOR_RGB2HSV)
    share = hsv[..., 1]
    np.multiply(share, np.float32(saturation), out=share)
    if saturation > 1:
        np.minimum(share, np.float32(1), out=share)
    hue = hsv[..., 0]
    np.add(hue, np.float32(degrees % 360), out=hue)  # OpenCV takes hues above 360, none below 0
    return cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB, dst=values)
