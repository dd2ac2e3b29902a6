"""One dataset-level confusion matrix, and every score that follows from it."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import cv2
import numpy as np
import torch
from jaxtyping import Float, Int, Integer, Num
from torch import Tensor

from segcore.errors import InputError
from segcore.types import IGNORE

Counts = Num[np.ndarray, "*many 3 k"]
"""Pixels of each class: labelled so, predicted so, both. All scores but the matrix follow from
them, and they add up over images."""
Values = Float[np.ndarray, "*many"] | float
"""A score, 0 to 1, of each of many counts at once."""
Figure = Callable[[Counts], Values]

BLOCK = 1 << 24
"""Pixels that are counted at a time: OpenCV gives counts as float32, which are exact up to here."""


def confusion_matrix(
    labels: Integer[Tensor, "*shape"], predicted: Integer[Tensor, "*shape"], num_classes: int
) -> Int[Tensor, "k k"]:
    """Pixels by (label, prediction); pixels labelled IGNORE do not count.

    Raises InputError where a label or a prediction is no class: it would be counted as another.
    """
    true = _bytes_of(labels, "label", num_classes)
    found = _bytes_of(predicted, "predicted class", num_classes)
    pairs = np.zeros((256, 256), np.int64)
    for first in range(0, true.size, BLOCK):
        block = [values[None, first : first + BLOCK] for values in (true, found)]
        pairs += cv2.calcHist(block, [0, 1], None, [256, 256], [0, 256, 0, 256]).astype(np.int64)
    counted = pairs[:IGNORE]
    for what, totals in (("label", counted.sum(1)), ("predicted class", counted.sum(0))):
        _check(what, np.flatnonzero(totals), num_classes)
    return torch.from_numpy(counted[:num_classes, :num_classes].copy())


def _bytes_of(values: Integer[Tensor, "*shape"], what: str, num_classes: int) -> np.ndarray:
    if values.dtype != torch.uint8:
        if (stray := values[(values < 0) | (values > IGNORE)]).numel():
            _check(what, stray.cpu().numpy(), num_classes)
        values = values.to(torch.uint8)
    return values.cpu().contiguous().numpy().reshape(-1)


def _check(what: str, values: np.ndarray, num_classes: int) -> None:
    stray = values[(values < 0) | (values >= num_classes)]
    if stray.size:
        raise InputError(
            f"{what} {stray.max()} where there are {num_classes} classes (0 to {num_classes - 1}); "
            "evaluate a model on the dataset that it was trained for"
        )


def counts_of(confusion: Int[np.ndarray, "k k"]) -> Int[np.ndarray, "3 k"]:
    return np.stack([confusion.sum(1), confusion.sum(0), np.diag(confusion)])


def class_iou(counts: Counts) -> Float[np.ndarray, "*many k"]:
    """Intersection over union; nan for a class that is neither labelled nor predicted."""
    labelled, predicted, correct = np.moveaxis(counts, -2, 0)
    return _ratio(correct, labelled + predicted - correct)


def class_accuracy(counts: Counts) -> Float[np.ndarray, "*many k"]:
    """The share of a class's labelled pixels that is found; nan where there are none."""
    labelled, _, correct = np.moveaxis(counts, -2, 0)
    return _ratio(correct, labelled)


def mean_iou(counts: Counts) -> Values:
    return _mean(class_iou(counts))


def mean_accuracy(counts: Counts) -> Values:
    return _mean(class_accuracy(counts))


def pixel_accuracy(counts: Counts) -> Values:
    """The share of all labelled pixels that is found."""
    return counts[..., 2, :].sum(-1) / np.maximum(counts[..., 0, :].sum(-1), 1)


def frequency_weighted_iou(counts: Counts) -> Values:
    """IoU weighted by the pixels labelled so (Long et al., CVPR 2015, arXiv:1411.4038)."""
    labelled = counts[..., 0, :]
    weighted = labelled * np.nan_to_num(class_iou(counts))
    return _sum(weighted) / np.maximum(labelled.sum(-1), 1)


def ade20k_score(counts: Counts) -> Values:
    """The mean of pixel accuracy and mIoU, by which the ADE20K challenge ranks."""
    return (pixel_accuracy(counts) + mean_iou(counts)) / 2


FIGURES: dict[str, Figure] = {
    "miou": mean_iou,
    "pixel_accuracy": pixel_accuracy,
    "mean_accuracy": mean_accuracy,
    "frequency_weighted_iou": frequency_weighted_iou,
    "ade20k_score": ade20k_score,
}


@dataclass(frozen=True)
class Scores:
    """What a confusion matrix says. Classes that are neither labelled nor predicted anywhere are
    absent: they are listed and left out of every mean, as Cityscapes' and MMSegmentation's
    definitions have it. Ratios are 0 to 1; nan where a class has none."""

    confusion: Int[np.ndarray, "k k"]

    @cached_property
    def counts(self) -> Int[np.ndarray, "3 k"]:
        return counts_of(self.confusion)

    @property
    def present(self) -> np.ndarray:
        return self.counts.sum(axis=0) > 0

    @property
    def iou(self) -> Float[np.ndarray, "k"]:
        return class_iou(self.counts)

    @property
    def accuracy(self) -> Float[np.ndarray, "k"]:
        return class_accuracy(self.counts)

    @property
    def miou(self) -> float:
        return float(mean_iou(self.counts))

    @property
    def mean_accuracy(self) -> float:
        return float(mean_accuracy(self.counts))

    @property
    def pixel_accuracy(self) -> float:
        return float(pixel_accuracy(self.counts))

    def as_dict(self, names: tuple[str, ...]) -> dict[str, Any]:
        """Plain JSON values; None where a class has no such score."""
        return {
            **{name: float(figure(self.counts)) for name, figure in FIGURES.items()},
            "iou": or_none(self.iou),
            "accuracy": or_none(self.accuracy),
            "absent": [n for n, here in zip(names, self.present, strict=True) if not here],
            "confusion": self.confusion.tolist(),
        }


def _ratio(part: np.ndarray, whole: np.ndarray) -> Float[np.ndarray, "..."]:
    return np.where(whole > 0, part / np.maximum(whole, 1), np.nan)


def _mean(values: Float[np.ndarray, "*many k"]) -> Values:
    """Over the classes that are there; 0 where none is."""
    return _sum(np.nan_to_num(values)) / np.maximum((~np.isnan(values)).sum(-1), 1)


def _sum(values: Float[np.ndarray, "*many k"]) -> Values:
    """One after the other, as a plain loop does it: equal to the official scripts' last digit."""
    return np.add.accumulate(values, axis=-1)[..., -1]


def or_none(values: Float[np.ndarray, "k"]) -> list[float | None]:
    return [None if np.isnan(value) else float(value) for value in values]
