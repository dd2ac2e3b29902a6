"""Losses on how well whole regions overlap, which is nearer to what is scored than pixels are.

Each is computed over the labelled pixels of an image, as a mean over the classes that occur
there, and counts by their number: divided by that of all images it is a mean over images.
"""

from collections.abc import Callable

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from segcore.losses.pixels import class_scores
from segcore.types import IGNORE, Labels

Values = Float[Tensor, "m n"]
"""Of the m classes that occur among n labelled pixels."""
Truth = Bool[Tensor, "m n"]
"""Is the pixel of the class?"""


def dice(logits: Float[Tensor, "b k hh ww"], labels: Labels) -> Float[Tensor, ""]:
    """One minus the Dice coefficient of probabilities p and labels g, 2 Σpg / (Σp² + Σg²).

    Milletari et al., 2016, arXiv:1606.04797, section 3, class by class.
    """
    return _over_images(logits, labels, _dice_of_classes)


def lovasz(logits: Float[Tensor, "b k hh ww"], labels: Labels) -> Float[Tensor, ""]:
    """The Lovász-softmax loss: the convex extension of one minus each class's intersection over
    union, at the errors of its probabilities (Berman et al., 2018, arXiv:1705.08790, section 3.2).
    """
    return _over_images(logits, labels, _lovasz_of_classes)


def _over_images(
    logits: Tensor, labels: Tensor, of_classes: Callable[[Tensor, Tensor], Tensor]
) -> Float[Tensor, ""]:
    probabilities = class_scores(logits, labels).softmax(dim=1)
    total = probabilities.new_zeros(())
    for scores, image in zip(probabilities, labels, strict=True):
        truth = image[image != IGNORE].long()
        classes = truth.unique()
        losses = of_classes(scores[classes][:, image != IGNORE], truth == classes[:, None])
        total = total + losses.sum() * (len(truth) / max(len(classes), 1))
    return total


def _dice_of_classes(probabilities: Values, truth: Truth) -> Float[Tensor, " m"]:
    overlap = 2 * (probabilities * truth).sum(dim=1)
    return 1 - overlap / (probabilities.square().sum(dim=1) + truth.sum(dim=1))


def _lovasz_of_classes(probabilities: Values, truth: Truth) -> Float[Tensor, " m"]:
    errors = (truth.to(probabilities.dtype) - probabilities).abs()
    return (errors * lovasz_gradient(errors.detach(), truth)).sum(dim=1)


def lovasz_gradient(errors: Values, truth: Truth) -> Values:
    """By how much one minus the intersection over union grows as each pixel, after all those with
    greater errors, turns wrong (Berman et al., 2018, algorithm 1).

    A pixel of the class adds 1/union; another one enlarges the union. Said so, and not as a
    difference of two nearly equal sums, it is exact in float32 for millions of pixels. Every
    class must occur.
    """
    order = errors.argsort(dim=1, descending=True)
    ordered = truth.gather(1, order)
    turned = ordered.cumsum(dim=1)
    size = truth.sum(dim=1, keepdim=True)
    intersection = size - turned
    union = size + torch.arange(1, truth.shape[1] + 1, device=truth.device) - turned
    before = (union - 1).clamp(min=1).to(errors.dtype)
    steps = torch.where(ordered, 1.0, intersection.to(errors.dtype) / before) / union
    return torch.zeros_like(errors).scatter(1, order, steps)
