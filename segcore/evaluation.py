"""A network and the images of a split -> Scores. One path for validation, evaluation, N workers."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from segcore.boundaries import boundary_counts, boundary_f
from segcore.distributed import total
from segcore.errors import InputError
from segcore.inference import predict_labels
from segcore.intervals import Interval, interval, mean_interval
from segcore.metrics import (
    FIGURES,
    Scores,
    class_iou,
    confusion_matrix,
    counts_of,
    mean_iou,
    or_none,
)
from segcore.sliding import smaller_windows
from segcore.types import Batch

Predict = Callable[[nn.Module, Tensor], Tensor]
"""A network's labels for images."""


@dataclass(frozen=True)
class ImageResult:
    """One image's labels as predicted and as they are, and its own confusion matrix."""

    id: str
    predicted: Tensor
    labels: Tensor
    confusion: Int[Tensor, "k k"]
    in_other_windows: bool = False
    """Whether memory ran short, so that it was seen by another protocol."""

    @property
    def miou(self) -> float:
        return Scores(self.confusion.numpy()).miou


def evaluate_images(
    network: nn.Module,
    batches: Iterable[Batch],
    num_classes: int,
    predict: Predict = predict_labels,
) -> Iterator[ImageResult]:
    """Predicts every image, one result at a time, so memory does not grow with the set.

    Raises InputError that names an image which is too small, or too large for the memory.
    """
    training = network.training
    network.eval()
    try:
        for batch in batches:
            try:
                with smaller_windows() as others:
                    predicted = predict(network, batch.images).cpu()
            except InputError as error:
                raise InputError(f"image {', '.join(batch.ids)}: {error}") from None
            for name, labels, found in zip(batch.ids, batch.labels, predicted, strict=True):
                matrix = confusion_matrix(labels, found, num_classes)
                yield ImageResult(name, found, labels, matrix, bool(others))
    finally:
        network.train(training)


def evaluate(
    network: nn.Module,
    batches: Iterable[Batch],
    num_classes: int,
    predict: Predict = predict_labels,
) -> Scores:
    """The scores over all workers; each gives the images of its own slice."""
    confusion = torch.zeros(num_classes, num_classes, dtype=torch.int64)
    for result in evaluate_images(network, batches, num_classes, predict):
        confusion += result.confusion
    device = next(network.parameters()).device
    return Scores(total(confusion.to(device)).cpu().numpy())


@dataclass(frozen=True)
class ImageScores:
    """What is kept of an image: a few kilobytes, whatever its size."""

    id: str
    counts: Int[np.ndarray, "3 k"]
    edges: Int[np.ndarray, "3 k"]
    edge_f: Float[np.ndarray, "k"]

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON values. Counts are those of the classes that the image has; an image without
        a labelled pixel has no score of its own."""
        here = np.flatnonzero(self.counts.any(axis=0))
        labelled, predicted, correct = self.counts[:, here].tolist()
        known = bool(sum(labelled))
        edge_f = self.edge_f[~np.isnan(self.edge_f)]
        return {
            "id": self.id,
            "miou": float(mean_iou(self.counts)) if known else None,
            "boundary_iou": float(mean_iou(self.edges)) if known else None,
            "boundary_f": float(edge_f.mean()) if known and edge_f.size else None,
            "classes": here.tolist(),
            "labelled": labelled,
            "predicted": predicted,
            "correct": correct,
        }


class Tally:
    """Adds up the results of a split, image by image."""

    def __init__(self, num_classes: int) -> None:
        self.confusion = torch.zeros(num_classes, num_classes, dtype=torch.int64)
        self.images = list[ImageScores]()
        self.in_other_windows = 0

    def add(self, result: ImageResult) -> None:
        self.confusion += result.confusion
        self.in_other_windows += result.in_other_windows
        maps = result.labels.numpy(), result.predicted.numpy()
        classes = len(self.confusion)
        counts = counts_of(result.confusion.numpy()).astype(np.int32)
        edges = boundary_counts(*maps, classes).astype(np.int32)
        self.images.append(ImageScores(result.id, counts, edges, boundary_f(*maps, classes)))

    @property
    def scores(self) -> Scores:
        return Scores(self.confusion.numpy())

    @property
    def per_image(self) -> list[dict[str, Any]]:
        return [image.as_dict() for image in self.images]

    def as_dict(self, names: tuple[str, ...]) -> dict[str, Any]:
        """Everything that ``scores.json`` says of a split: plain JSON values."""
        counts = np.stack([image.counts for image in self.images]).astype(np.int64)
        edges = np.stack([image.edges for image in self.images]).astype(np.int64)
        edge_f = np.stack([image.edge_f for image in self.images])
        trusted = {name: interval([counts], figure) for name, figure in FIGURES.items()}
        trusted["boundary_iou"] = interval([edges], mean_iou)
        trusted["boundary_f"] = mean_interval(edge_f)
        others = self.in_other_windows
        return {
            "images": len(self.images),
            **({"seen_in_other_windows": others} if others else {}),
            **self.scores.as_dict(names),
            "boundary_iou": trusted["boundary_iou"].value,
            "boundary_f": trusted["boundary_f"].value,
            "class_boundary_iou": or_none(class_iou(edges.sum(0))),
            "intervals": {name: _ends(each) for name, each in trusted.items()},
            "per_image": self.per_image,
        }


def merged(parts: Sequence[Tally]) -> Tally:
    """Of ranges of images that follow each other: the same as of all images by one."""
    tally = Tally(len(parts[0].confusion))
    for part in parts:
        tally.confusion += part.confusion
        tally.images += part.images
        tally.in_other_windows += part.in_other_windows
    return tally


def _ends(found: Interval) -> list[float]:
    return [found.low, found.high]
