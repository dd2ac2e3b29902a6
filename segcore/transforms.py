"""Pure functions of (image, labels, generator). Images are uint8 RGB, 0 to 255.

A training crop is drawn first and only its window of the source is resized: the same pixels as
resizing the whole image and cropping, without computing those that are thrown away.
"""

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor

from segcore.types import IGNORE, Images, Sample

MEAN = (123.675, 116.28, 103.53)
STD = (58.395, 57.12, 57.375)
PADDING = (124, 116, 104)
"""The mean, so that padded pixels are 0 once normalised."""

Image = UInt8[Tensor, "3 h w"]
LabelMap = UInt8[Tensor, "h w"]
NewImage = UInt8[Tensor, "3 new_h new_w"]
NewLabelMap = UInt8[Tensor, "new_h new_w"]


@dataclass(frozen=True)
class Augmentation:
    """What happens to a training sample, in this order: scale and crop, flip, colours.

    ``scale`` is the range of the random resize, ``max_class_share`` the largest share of the
    labelled pixels of a crop that one class may have before another crop is drawn (10 draws),
    ``mirror`` the class that each class becomes in a mirrored image.
    """

    crop: tuple[int, int]
    scale: tuple[float, float] = (0.5, 2.0)
    max_class_share: float = 0.75
    flip: float = 0.5
    photometric: bool = True
    mirror: tuple[int, ...] = ()

    def __call__(self, sample: Sample, generator: np.random.Generator) -> Sample:
        image, labels = random_crop(sample.image, sample.labels, generator, self)
        if generator.random() < self.flip:
            image, labels = image.flip(-1), swap_sides(labels.flip(-1), self.mirror)
        if self.photometric:
            image = photometric_distortion(image, generator)
        return Sample(sample.id, image, labels)


def random_crop(
    image: Image, labels: LabelMap, generator: np.random.Generator, how: Augmentation
) -> tuple[NewImage, NewLabelMap]:
    """A crop of the image resized by a random factor; padded where the image ends."""
    factor = generator.uniform(*how.scale)
    height, width = labels.shape
    window_height, new_height = _window(height, how.crop[0], factor)
    window_width, new_width = _window(width, how.crop[1], factor)
    rows = columns = slice(0)
    for _ in range(10):
        top = int(generator.integers(height - window_height + 1))
        left = int(generator.integers(width - window_width + 1))
        rows, columns = slice(top, top + window_height), slice(left, left + window_width)
        if how.max_class_share == 1 or largest_share(labels[rows, columns]) <= how.max_class_share:
            break
    size = (new_height, new_width)
    resized = resize_image(image[:, rows, columns], size)
    return pad(resized, resize_labels(labels[rows, columns], size), how.crop)


def _window(size: int, crop: int, factor: float) -> tuple[int, int]:
    """How many source pixels a crop covers along one axis, and how many they become."""
    resized = max(round(size * factor), 1)
    if resized < crop:  # the whole axis; the rest of the crop is padding
        return size, resized
    return min(max(round(crop / factor), 1), size), crop


def largest_share(labels: LabelMap) -> float:
    """The share of the most frequent class among labelled pixels; 1 where there are none."""
    counts = np.bincount(labels.numpy().ravel(), minlength=256)[:IGNORE]
    return float(counts.max() / counts.sum()) if counts.any() else 1.0


def resize_image(image: Image, size: tuple[int, int]) -> NewImage:
    """Bilinear, half-pixel centres, without low-pass filter, as OpenCV and the recipes do."""
    if image.shape[-2:] == size:
        return image
    values = F.interpolate(image[None].float(), size, mode="bilinear", align_corners=False)
    return values[0].round_().to(torch.uint8)


def resize_labels(labels: LabelMap, size: tuple[int, int]) -> NewLabelMap:
    if labels.shape == size:
        return labels
    return F.interpolate(labels[None, None], size, mode="nearest-exact")[0, 0]


def pad(image: Image, labels: LabelMap, size: tuple[int, int]) -> tuple[NewImage, NewLabelMap]:
    """Fills up to ``size`` below and to the right: image with the mean, labels with IGNORE."""
    height, width = labels.shape
    if (height, width) == size:
        return image, labels
    framed = torch.tensor(PADDING, dtype=torch.uint8)[:, None, None].repeat(1, *size)
    framed[:, :height, :width] = image
    relabelled = torch.full(size, IGNORE, dtype=torch.uint8)
    relabelled[:height, :width] = labels
    return framed, relabelled


def swap_sides(labels: LabelMap, mirror: tuple[int, ...]) -> LabelMap:
    """Exchanges the classes that have a left and a right form."""
    if mirror == tuple(range(len(mirror))):
        return labels
    table = torch.arange(256, dtype=torch.uint8)
    table[: len(mirror)] = torch.tensor(mirror, dtype=torch.uint8)
    return table[labels.long()]


def photometric_distortion(image: Image, generator: np.random.Generator) -> Image:
    """Brightness, contrast, saturation and hue, each with probability 1/2.

    The ranges and the order of SSD (Liu et al., 2016, arXiv:1512.02325) as MMSegmentation uses
    them: brightness +-32, contrast and saturation x 0.5 to 1.5, hue +-36 degrees; contrast
    before or after the other two by the toss of a coin.
    """
    values = image.float()
    if generator.random() < 0.5:
        values = (values + float(generator.uniform(-32, 32))).clamp(0, 255)
    contrast = float(generator.uniform(0.5, 1.5)) if generator.random() < 0.5 else 1.0
    contrast_first = generator.random() < 0.5
    if contrast_first:
        values = values * contrast
    values = values.clamp(0, 255)
    if generator.random() < 0.5:
        values = scale_saturation(values, float(generator.uniform(0.5, 1.5)))
    if generator.random() < 0.5:
        values = shift_hue(values, float(generator.uniform(-36, 36)))
    if not contrast_first:
        values = values * contrast
    return values.clamp(0, 255).round_().to(torch.uint8)


def scale_saturation(image: Float[Tensor, "3 h w"], factor: float) -> Float[Tensor, "3 h w"]:
    """HSV saturation times ``factor``, at most 1; hue and value stay.

    With V the largest channel, saturation scales the distances V - channel.
    """
    value = image.amax(0)
    spread = value - image.amin(0)
    largest = value / spread.clamp(min=1e-6)  # the factor at which saturation becomes 1
    return value - (value - image) * largest.clamp(max=factor)


def shift_hue(image: Float[Tensor, "3 h w"], degrees: float) -> Float[Tensor, "3 h w"]:
    """HSV hue turned by ``degrees``; saturation and value stay."""
    red, green, blue = image
    value = image.amax(0)
    spread = value - image.amin(0)
    safe = spread.clamp(min=1e-6)
    sector = torch.where(
        value == red,
        (green - blue) / safe,
        torch.where(value == green, 2 + (blue - red) / safe, 4 + (red - green) / safe),
    )
    sector = sector + degrees / 60
    channels = [(sector + n).remainder(6) for n in (5, 3, 1)]
    return torch.stack([value - spread * torch.minimum(k, 4 - k).clamp(0, 1) for k in channels])


def normalise(images: UInt8[Tensor, "b 3 h w"]) -> Images:
    """Minus the ImageNet mean, by its deviation, channel by channel; on the images' device."""
    mean = torch.tensor(MEAN, device=images.device).view(1, 3, 1, 1)
    std = torch.tensor(STD, device=images.device).view(1, 3, 1, 1)
    return (images.float() - mean) / std
