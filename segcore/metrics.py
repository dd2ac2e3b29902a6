"""One dataset-level confusion matrix, and every score that follows from it."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int, Integer
from torch import Tensor

from segcore.errors import InputError
from segcore.types import IGNORE


def confusion_matrix(
    labels: Integer[Tensor, "*shape"], predicted: Integer[Tensor, "*shape"], num_classes: int
) -> Int[Tensor, "k k"]:
    """Pixels by (label, prediction); pixels labelled IGNORE do not count.

    Raises InputError where a label or a prediction is no class: it would be counted as another.
    """
    counted = labels != IGNORE
    true, found = labels[counted].long(), predicted[counted].long()
    for what, values in (("label", true), ("predicted class", found)):
        if values.numel() and (highest := int(values.max())) >= num_classes:
            raise InputError(
                f"{what} {highest} where there are {num_classes} classes (0 to {num_classes - 1}); "
                "evaluate a model on the dataset that it was trained for"
            )
    pairs = true * num_classes + found
    return torch.bincount(pairs, minlength=num_classes**2).view(num_classes, num_classes)


@dataclass(frozen=True)
class Scores:
    """What a confusion matrix says. Classes with no labelled pixel are absent: they are listed
    and left out of every mean. Ratios are 0 to 1; nan where a class is absent."""

    confusion: Int[np.ndarray, "k k"]

    @property
    def present(self) -> np.ndarray:
        return self.confusion.sum(1) > 0

    @property
    def iou(self) -> Float[np.ndarray, "k"]:
        """Intersection over union, per class."""
        correct = np.diag(self.confusion)
        union = self.confusion.sum(0) + self.confusion.sum(1) - correct
        return _ratio(correct, union, self.present)

    @property
    def accuracy(self) -> Float[np.ndarray, "k"]:
        """The share of a class's labelled pixels that is found."""
        return _ratio(np.diag(self.confusion), self.confusion.sum(1), self.present)

    @property
    def miou(self) -> float:
        return _mean(self.iou)

    @property
    def mean_accuracy(self) -> float:
        return _mean(self.accuracy)

    @property
    def pixel_accuracy(self) -> float:
        return float(np.trace(self.confusion) / max(self.confusion.sum(), 1))

    def as_dict(self, names: tuple[str, ...]) -> dict[str, Any]:
        """Plain JSON values; absent classes are None."""
        return {
            "miou": self.miou,
            "pixel_accuracy": self.pixel_accuracy,
            "mean_accuracy": self.mean_accuracy,
            "iou": _or_none(self.iou),
            "accuracy": _or_none(self.accuracy),
            "absent": [n for n, here in zip(names, self.present, strict=True) if not here],
            "confusion": self.confusion.tolist(),
        }


def _ratio(
    part: Int[np.ndarray, "k"], whole: Int[np.ndarray, "k"], present: np.ndarray
) -> Float[np.ndarray, "k"]:
    return np.where(present, part / np.maximum(whole, 1), np.nan)


def _mean(values: Float[np.ndarray, "k"]) -> float:
    here = values[~np.isnan(values)]
    return float(here.mean()) if here.size else 0.0


def _or_none(values: Float[np.ndarray, "k"]) -> list[float | None]:
    return [None if np.isnan(value) else float(value) for value in values]
