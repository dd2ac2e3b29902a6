"""How SegFix is trained: boundary or not, and the direction where it sees a boundary."""

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from segcore.losses.pixels import class_scores
from segcore.segfix.moves import STAY, Number
from segcore.types import IGNORE, Labels, Prediction


def build_move_criterion(
    *, direction_weight: Number = 1.0
) -> Callable[[Prediction, Labels], Float[Tensor, ""]]:
    """A function of the prediction and of labels of ``MOVES`` that gives the batch's loss, a sum
    over its labelled pixels (arXiv:2007.04269, section 3.2).

    Cross entropy on boundary or not, plus ``direction_weight`` times that on the direction. The
    direction counts at boundary pixels that the network itself sees as boundary, by more than
    one half. Each class is weighted with one minus its frequency in the batch at hand, and each
    term is the mean by these weights, as published.
    """
    return partial(_move_loss, direction_weight=direction_weight)


def _move_loss(
    prediction: Prediction, labels: Labels, *, direction_weight: Number
) -> Float[Tensor, ""]:
    scores, labels = class_scores(prediction.logits, labels), labels.long()
    stay, directions = scores[:, :1], scores[:, 1:]
    labelled = labels != IGNORE
    moving = labelled & (labels != STAY)
    seen = moving & (stay[:, 0] < 0)
    # One margin stands for two scores: a softmax does not see what both have in common.
    boundary = _balanced(
        torch.cat([stay, torch.zeros_like(stay)], dim=1),
        torch.where(labelled, moving.long(), IGNORE),
    )
    direction = _balanced(directions, torch.where(seen, labels - 1, IGNORE))
    return (boundary + direction_weight * direction) * labelled.sum()


def _balanced(scores: Float[Tensor, "b k h w"], labels: Labels) -> Float[Tensor, ""]:
    """Cross entropy, a mean weighted by one minus each class's frequency among the labels."""
    counts = torch.stack([(labels == each).sum() for each in range(scores.shape[1])]).to(scores)
    weights = 1 - counts / counts.sum().clamp(min=1)
    losses = F.cross_entropy(scores, labels, weight=weights, ignore_index=IGNORE, reduction="sum")
    # Two classes or more weigh at least 1 together; one alone weighs nothing.
    return losses / (weights * counts).sum().clamp(min=1)
