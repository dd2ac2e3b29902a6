"""Labels for images of any size, by one look or by many."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from segcore.layers import resize
from segcore.memory import room
from segcore.sliding import Pair, halved, in_these_windows, in_windows, whole
from segcore.tables import TestTime
from segcore.types import Images, Prediction

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
    return _labels(network, images)


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
    MMSegmentation does.
    """
    height, width = images.shape[-2:]
    base = resized_sides((height, width), size)
    views = [(max(round(base[0] * each), 1), max(round(base[1] * each), 1)) for each in scales]
    windows = (window, stride) if window and stride else None
    if views != [(height, width)] or flip:
        factors = [(down / height, across / width) for down, across in views]
        ensemble = Ensemble(network, factors, list(mirror) if flip else None, windows)
        largest = max(down * across for down, across in factors)
        # Windows are as large as they are, whatever the image.
        return _labels(ensemble, images, 0.0 if windows else largest)
    if windows:
        return in_windows(network, images, *windows, _labels_of_bands)
    return _labels(network, images)


def _labels(network: nn.Module, images: ImageBatch, enlargement: float = 1.0) -> LabelBatch:
    """``enlargement`` is that of ``whole``."""
    if (scores := whole(network, images, enlargement)) is not None:
        return _most_likely(scores, images.shape[-2:])
    return in_windows(network, images, *_halves(images), _labels_of_bands)


class Ensemble(nn.Module):
    """A network that looks at an image several times: its scores are the class probabilities of
    all views, added up one view after the other; of a single view the scores themselves.

    Views are ``factors`` (downward, across) times as large as the image; with ``mirror`` each is
    also seen mirrored, through ``windows`` (size and stride) where they are given. Raises
    MemoryError where the sums, or a view, do not fit.
    """

    def __init__(
        self,
        network: nn.Module,
        factors: Sequence[tuple[float, float]],
        mirror: Sequence[int] | None,
        windows: tuple[Pair, Pair] | None,
    ) -> None:
        super().__init__()
        self.network, self.factors = network, factors
        self.mirror, self.windows = mirror, windows

    def forward(self, images: Images) -> Prediction:
        if len(self.factors) == 1 and not self.mirror:
            return Prediction(self._look(self._view(images, *self.factors[0])))
        total = torch.zeros(())
        for view, mirrored in self._views(images):
            scores = self._look(view)
            if not total.ndim:
                total = room((*scores.shape[:2], *images.shape[-2:]), images.device)
            self._add(scores, mirrored, total)
        return Prediction(total)

    def _views(self, images: Images) -> Iterator[tuple[Images, bool]]:
        for factors in self.factors:
            view = self._view(images, *factors)
            yield view, False
            if self.mirror:
                yield view.flip(-1), True

    def _view(self, images: Images, down: float, across: float) -> Float[Tensor, "b 3 hh ww"]:
        height, width = images.shape[-2:]
        size = torch.Size((max(round(height * down), 1), max(round(width * across), 1)))
        return images if size == images.shape[-2:] else resize(images, size)

    def _look(self, view: Images) -> Float[Tensor, "b k new_h new_w"]:
        """The scores of a view: as a whole at the network's stride, in windows at full size."""
        if self.windows is None:
            return self.network(view).logits.float()
        joined = partial(_joined, height=view.shape[-2])
        scores = in_these_windows(self.network, view, *self.windows, joined)
        if scores is None:
            raise MemoryError("a view does not fit")
        return scores

    def _add(
        self, scores: Float[Tensor, "b k hh ww"], mirrored: bool, total: Float[Tensor, "b k h w"]
    ) -> None:
        """In bands of rows: all classes at full size are held once, as the total."""
        size = total.shape[-2:]
        for first, end in _row_bands(total[:, :, 0].numel(), size[0]):
            shares = resized_rows(scores, size, (first, end)).softmax(dim=1).to(total.device)
            if self.mirror and mirrored:
                shares = shares.flip(-1)[:, self.mirror]
            total[:, :, first:end] += shares


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


def _joined(bands: Iterable[Tensor], height: int) -> Float[Tensor, "b k h w"]:
    whole_map, top = torch.zeros(()), 0
    for band in bands:
        if not whole_map.ndim:
            whole_map = room((*band.shape[:2], height, band.shape[3]), band.device)
        whole_map[:, :, top : top + band.shape[2]] = band
        top += band.shape[2]
    return whole_map


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
