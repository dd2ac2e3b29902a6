"""Labels for images of any size, by one look or by many."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from segcore.layers import resize
from segcore.sliding import Pair, device_of, halved, in_windows, whole
from segcore.tables import TestTime
from segcore.transforms import normalise

ImageBatch = UInt8[Tensor, "b 3 h w"]
LabelBatch = UInt8[Tensor, "b h w"]
PART = 1 << 23
"""Scores (float32) that are enlarged at a time: 32 MB."""


def predictor(
    how: TestTime, mirror: Sequence[int]
) -> Callable[[nn.Module, ImageBatch], LabelBatch]:
    """Labels for images as ``how`` says, but for its ``crop``; ``mirror`` is the class table's."""
    if how.crop:  # what is cropped was resized before
        how = how.model_copy(update={"crop": None, "resize": None})
    if how == TestTime():
        return predict_labels
    return partial(
        predict_labels_over_views,
        scales=how.scales,
        flip=how.flip,
        mirror=mirror,
        size=how.resize,
        window=how.window,
        stride=how.stride,
    )


@torch.inference_mode()
def predict_labels(network: nn.Module, images: ImageBatch) -> LabelBatch:
    """The most likely class of every pixel, at the images' own size, on the network's device.

    Images that memory does not suffice for are seen through windows, which is told.
    """
    size = images.shape[-2:]
    if (scores := whole(network, images)) is not None:
        return _most_likely(scores, size)
    return in_windows(network, images, *_halves(images), _labels_of_bands)


@torch.inference_mode()
def predict_labels_over_views(
    network: nn.Module,
    images: ImageBatch,
    *,
    scales: Sequence[float],
    flip: bool,
    mirror: Sequence[int],
    size: int | Pair | None = None,
    window: Pair | None = None,
    stride: Pair | None = None,
) -> LabelBatch:
    """Multi-scale testing: the class that is most likely on the mean over all views.

    The images are first resized to the short side ``size``, or stretched to it; then by every
    factor of ``scales`` (bilinearly, not below one pixel). With ``flip`` each view is also seen
    mirrored, where class i stands for class ``mirror[i]``. A view larger than ``window`` is seen
    through windows. Its scores are enlarged to the images' size before the softmax, as
    MMSegmentation does; rows in bands, since all classes of all views would not fit.
    """
    sides, images = images.shape[-2:], images.to(device_of(network))
    seen = _Look(network, window, stride)
    if len(scales) == 1 and not flip:
        view = next(_views(images, size, scales))
        if window and stride and view.shape[-2:] == sides:
            return in_windows(network, view, window, stride, _labels_of_bands)
        return _most_likely(seen(view), sides)
    turned, looks = list(mirror), list[tuple[Tensor, bool]]()
    for view in _views(images, size, scales):
        looks.append((seen(view), False))
        if flip:
            looks.append((seen(view.flip(-1)), True))
    bands = list[Tensor]()
    for rows in _row_bands(looks[0][0].shape[:2].numel() * sides[1], sides[0]):
        total = torch.zeros((), device=looks[0][0].device)
        for scores, mirrored in looks:
            shares = resized_rows(scores, sides, rows).softmax(dim=1).to(total.device)
            total = total + (shares.flip(-1)[:, turned] if mirrored else shares)
        bands.append(total.argmax(1).to(torch.uint8))
    return torch.cat(bands, dim=1)


@dataclass(frozen=True)
class _Look:
    """A network's scores of a view: as a whole at its own stride, or in windows at full size."""

    network: nn.Module
    window: Pair | None
    stride: Pair | None

    def __call__(self, view: Tensor) -> Float[Tensor, "b k new_h new_w"]:
        if self.window and self.stride:
            return in_windows(self.network, view, self.window, self.stride, _scores_of_bands)
        if (scores := whole(self.network, view)) is not None:
            return scores
        return in_windows(self.network, view, *_halves(view), _scores_of_bands)


def _views(
    images: ImageBatch, size: int | Pair | None, scales: Sequence[float]
) -> Iterator[Tensor]:
    """The images at every scale: as they are (uint8) where nothing changes, else normalised."""
    base = resized_sides(images.shape[-2:], size)
    for scale in scales:
        sides = tuple(max(round(side * scale), 1) for side in base)
        same = sides == tuple(images.shape[-2:])
        yield images if same else resize(normalise(images), torch.Size(sides))


def resized_sides(sides: Sequence[int], size: int | Pair | None) -> Pair:
    """Height and width after a resize to a short side, or to a size."""
    height, width = sides
    match size:
        case None:
            return height, width
        case int(short):
            factor = short / min(height, width)
            return max(round(height * factor), 1), max(round(width * factor), 1)
        case (new_height, new_width):
            return new_height, new_width


def _halves(images: Tensor) -> tuple[Pair, Pair]:
    """Window and stride for images that do not fit; two thirds, as is usual."""
    height, width = halved(images, (images.shape[-2], images.shape[-1]))
    return (height, width), (max(2 * height // 3, 1), max(2 * width // 3, 1))


def _labels_of_bands(bands: Iterable[Tensor]) -> LabelBatch:
    return torch.cat([_most_likely(band, band.shape[-2:]) for band in bands], dim=1)


def _scores_of_bands(bands: Iterable[Tensor]) -> Float[Tensor, "b k h w"]:
    return torch.cat([band.clone() for band in bands], dim=2)


def _most_likely(scores: Float[Tensor, "b k h w"], size: torch.Size) -> UInt8[Tensor, "b hh ww"]:
    """``resize(scores, size).argmax(1)``, exactly, some classes at a time: all of them at full
    size would be the most that inference needs (150 classes, 1024x2048: 1.3 GB)."""
    step = max(1, PART // (len(scores) * size.numel()))
    shape = len(scores), *size
    best = scores.new_full(shape, -torch.inf)
    labels = torch.zeros(shape, dtype=torch.uint8, device=scores.device)
    for first in range(0, scores.shape[1], step):
        part = scores[:, first : first + step]
        part = part if part.shape[-2:] == size else resize(part, size)
        for index, each in enumerate(part.unbind(1), start=first):
            labels.masked_fill_(each > best, index)  # of equal ones the first, as argmax has it
            torch.maximum(best, each, out=best)
    return labels


def _row_bands(row_numbers: int, height: int) -> list[Pair]:
    """First and end of bands whose scores take no more than ``PART``."""
    step = max(1, PART // row_numbers)
    return [(first, min(first + step, height)) for first in range(0, height, step)]


def resized_rows(
    scores: Float[Tensor, "b k h w"], size: torch.Size, rows: Pair
) -> Float[Tensor, "b k rows ww"]:
    """Rows ``rows`` (first, end) of ``resize(scores, size)``, but for rounding."""
    height, (first, end) = scores.shape[2], rows
    if scores.shape[-2:] == size:
        return scores[:, :, first:end]
    places = (torch.arange(first, end, device=scores.device) + 0.5) * (height / size[0]) - 0.5
    places = places.clamp_(min=0)
    above = places.long().clamp_(max=height - 1)
    below = (above + 1).clamp_(max=height - 1)
    top, bottom = int(above[0]), int(below[-1]) + 1
    wide = resize(scores[:, :, top:bottom], torch.Size((bottom - top, size[1])))
    return torch.lerp(wide[:, :, above - top], wide[:, :, below - top], (places - above)[:, None])
