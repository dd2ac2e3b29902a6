"""How far a score can be trusted: 95 % intervals by bootstrap over images, and over seeds.

A score of another draw of the test images is what the interval of Efron's percentile bootstrap
covers (Efron and Tibshirani, An introduction to the bootstrap, 1993, chapter 13): images are
drawn with replacement, and the score is taken anew over those drawn.
"""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int, Num

from segcore.errors import InputError
from segcore.metrics import Figure, Values

DRAWS = 1000
SHARE = 95
"""Per cent of the draws that lie in an interval."""
AT_A_TIME = 50
"""Draws whose weights are held at once."""

ImageCounts = Int[np.ndarray, "_ 3 k"]
"""What scores follow from, for each image (``segcore.metrics.Counts``)."""
ImageScores = Num[np.ndarray, "_ k"]
"""A score of each class in each image, or nan."""


class Interval(NamedTuple):
    value: float
    low: float
    high: float


def interval(runs: Sequence[ImageCounts], figure: Figure, *, seed: int = 0) -> Interval:
    """The figure, as the mean over runs (seeds of a row) on the same images.

    With one run only images are drawn, with several runs as well.
    """
    value = sum(float(figure(run.sum(0))) for run in runs) / len(runs)
    return _interval(value, _drawn(runs, figure, seed))


def difference(
    ours: Sequence[ImageCounts], theirs: Sequence[ImageCounts], figure: Figure, *, seed: int = 0
) -> Interval:
    """Ours minus theirs, paired: each draw of images is the same for both.

    An interval without zero says that the difference is not by chance of the images. Raises
    InputError where the two were not scored on equally many images.
    """
    _check_pairs([*ours, *theirs])
    value = interval(ours, figure).value - interval(theirs, figure).value
    return _interval(value, _drawn(ours, figure, seed) - _drawn(theirs, figure, seed))


def mean_interval(values: ImageScores, *, seed: int = 0) -> Interval:
    """Of a score that images have, not pixels: per class the mean over the images that have one
    (nan: none), then over the classes."""
    return _interval(*_mean_drawn(values, seed))


def mean_difference(ours: ImageScores, theirs: ImageScores, *, seed: int = 0) -> Interval:
    """Ours minus theirs, paired as in ``difference``."""
    _check_pairs([ours, theirs])
    (value, draws), (other, others) = _mean_drawn(ours, seed), _mean_drawn(theirs, seed)
    return _interval(value - other, draws - others)


def _check_pairs(sides: Sequence[Num[np.ndarray, "..."]]) -> None:
    if len({len(side) for side in sides}) > 1:
        raise InputError(
            f"{len(sides[0])} images on one side and {len(sides[-1])} on the other cannot be "
            "paired; evaluate both rows on the same split"
        )


def image_counts(per_image: Sequence[dict[str, Any]], num_classes: int) -> ImageCounts:
    """From the entries of ``scores.json``, which name an image's classes only."""
    counts = np.zeros((len(per_image), 3, num_classes), np.int64)
    for row, image in zip(counts, per_image, strict=True):
        row[:, image["classes"]] = [image[key] for key in ("labelled", "predicted", "correct")]
    return counts


def _interval(value: float, draws: Float[np.ndarray, "draws"]) -> Interval:
    tail = (100 - SHARE) / 2
    low, high = np.percentile(draws, [tail, 100 - tail])
    return Interval(value, float(low), float(high))


def _drawn(runs: Sequence[ImageCounts], figure: Figure, seed: int) -> Float[np.ndarray, "draws"]:
    """The figure of every draw; the same images are drawn for the same seed."""
    flat = [run.reshape(len(run), -1).astype(np.float64) for run in runs]  # sums below 2^53: exact
    shape, parts = runs[0].shape[1:], list[np.ndarray]()
    for weights in _weights(len(runs[0]), seed):
        parts.append(np.stack([figure((weights @ run).reshape(-1, *shape)) for run in flat]))
    figures = np.concatenate(parts, axis=1)
    chosen = np.random.default_rng([seed, 1]).integers(0, len(runs), (len(runs), DRAWS))
    return np.take_along_axis(figures, chosen, axis=0).mean(0)


def _mean_drawn(values: ImageScores, seed: int) -> tuple[float, Float[np.ndarray, "draws"]]:
    """The mean, and that of every draw."""
    known = ~np.isnan(values)
    flat = np.stack([np.nan_to_num(values), known])

    def mean(sums: np.ndarray, counts: np.ndarray) -> Values:
        classes = np.where(counts > 0, sums / np.maximum(counts, 1), 0).sum(-1)
        return classes / np.maximum((counts > 0).sum(-1), 1)

    draws = [mean(weights @ flat[0], weights @ flat[1]) for weights in _weights(len(values), seed)]
    return float(mean(flat[0].sum(0), flat[1].sum(0))), np.concatenate(draws)


def _weights(images: int, seed: int) -> Iterator[Float[np.ndarray, "some images"]]:
    """How often each image is drawn."""
    generator = np.random.default_rng([seed, 0])
    for _ in range(0, DRAWS, AT_A_TIME):
        drawn = generator.integers(0, images, (AT_A_TIME, images))
        rows = np.arange(AT_A_TIME)[:, None] * images
        counts = np.bincount((rows + drawn).ravel(), minlength=AT_A_TIME * images)
        yield counts.reshape(AT_A_TIME, images).astype(np.float64)
