"""A network and the images of a split -> Scores. One path for validation, evaluation, N workers."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor, nn

from segcore.distributed import total
from segcore.inference import predict_labels
from segcore.metrics import Scores, confusion_matrix
from segcore.types import Batch


@dataclass(frozen=True)
class ImageResult:
    """One image's labels as predicted, and its own confusion matrix."""

    id: str
    predicted: Tensor
    confusion: Int[Tensor, "k k"]

    @property
    def miou(self) -> float:
        return Scores(self.confusion.numpy()).miou


def evaluate_images(
    network: nn.Module,
    batches: Iterable[Batch],
    num_classes: int,
    predict: Callable[[nn.Module, Tensor], Tensor] = predict_labels,
) -> Iterator[ImageResult]:
    """Predicts every image, one result at a time, so memory does not grow with the set."""
    training = network.training
    network.eval()
    try:
        for batch in batches:
            predicted = predict(network, batch.images).cpu()
            for name, labels, found in zip(batch.ids, batch.labels, predicted, strict=True):
                yield ImageResult(name, found, confusion_matrix(labels, found, num_classes))
    finally:
        network.train(training)


def evaluate(network: nn.Module, batches: Iterable[Batch], num_classes: int) -> Scores:
    """The scores over all workers; each gives the images of its own slice."""
    confusion = torch.zeros(num_classes, num_classes, dtype=torch.int64)
    for result in evaluate_images(network, batches, num_classes):
        confusion += result.confusion
    device = next(network.parameters()).device
    return Scores(total(confusion.to(device)).cpu().numpy())


class Tally:
    """Adds up the results of a split, image by image."""

    def __init__(self, num_classes: int) -> None:
        self.confusion = torch.zeros(num_classes, num_classes, dtype=torch.int64)
        self.per_image = list[dict[str, Any]]()

    def add(self, result: ImageResult) -> None:
        """An image without a labelled pixel has no score of its own."""
        self.confusion += result.confusion
        labelled = int(result.confusion.sum()) > 0
        self.per_image.append({"id": result.id, "miou": result.miou if labelled else None})

    @property
    def scores(self) -> Scores:
        return Scores(self.confusion.numpy())
