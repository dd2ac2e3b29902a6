"""Pixel losses as sums over labelled pixels; the caller divides by their number, everywhere.

Workers, and the parts of an accumulated batch, hold different numbers of labelled pixels. A sum
over them all, divided once, weights every pixel alike; a mean of their means does not.
"""

import inspect
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from segcore.errors import InputError, suggestion
from segcore.layers import resize
from segcore.types import IGNORE, Labels, Prediction

__all__ = ["build_criterion", "cross_entropy", "list_losses", "ohem", "presence"]

Criterion = Callable[[Prediction, Labels], Tensor]


def build_criterion(
    name: str,
    *,
    auxiliary_weight: float = 0.4,
    presence_weight: float = 0.2,
    class_weights: Sequence[float] | None = None,
    **options: Any,
) -> Criterion:
    """A function of prediction and labels that gives the batch's loss, a sum over its pixels.

    ``name`` is that of the loss on the main logits; auxiliary logits are supervised by cross
    entropy with ``auxiliary_weight`` (MMSegmentation: 0.4; BiSeNet and DANet: 1), presence by
    binary cross entropy with ``presence_weight`` (EncNet, Zhang et al., 2018, arXiv:1803.08904,
    section 3.1: 0.2). ``class_weights`` holds one weight per class, for all pixel losses. Labels
    may be uint8. A batch without a labelled pixel gives exactly zero, with zero gradients.
    Raises InputError on an unknown name or option.
    """
    if name not in _LOSSES:
        raise InputError(f"no loss {name!r}{suggestion(name, _LOSSES)}")
    loss = _LOSSES[name]
    known = [each for each in inspect.signature(loss).parameters if each not in _GIVEN]
    for option in options:
        if option not in known:
            raise InputError(f"loss {name} has no option {option!r}{suggestion(option, known)}")
    weights = None if class_weights is None else torch.tensor(class_weights, dtype=torch.float32)
    main = partial(loss, class_weights=weights, **options)
    return partial(
        _total,
        main=main,
        auxiliary=partial(cross_entropy, class_weights=weights),
        auxiliary_weight=auxiliary_weight,
        presence_weight=presence_weight,
    )


def _total(
    prediction: Prediction,
    labels: Labels,
    *,
    main: Callable[..., Tensor],
    auxiliary: Callable[..., Tensor],
    auxiliary_weight: float,
    presence_weight: float,
) -> Float[Tensor, ""]:
    labels = labels.long()
    total = main(prediction.logits, labels)
    for logits in prediction.auxiliary:
        total = total + auxiliary_weight * auxiliary(logits, labels)
    if prediction.presence is not None:
        total = total + presence_weight * presence(prediction.presence, labels)
    return total


def cross_entropy(
    logits: Float[Tensor, "b k hh ww"],
    labels: Labels,
    *,
    class_weights: Float[Tensor, " k"] | None = None,
) -> Float[Tensor, ""]:
    """The sum over labelled pixels of -w_y log p_y, the logits enlarged to the labels' size.

    With ``class_weights``, the caller's division by the number of pixels differs from torch's
    weighted mean, which divides by the sum of the pixels' weights.
    """
    return _pixel_losses(logits, labels, class_weights).sum()


def ohem(
    logits: Float[Tensor, "b k hh ww"],
    labels: Labels,
    *,
    class_weights: Float[Tensor, " k"] | None = None,
    threshold: float = 0.7,
    min_kept: int = 100_000,
) -> Float[Tensor, ""]:
    """Cross entropy on the hard pixels alone: those whose own class has a probability below t.

    t is ``threshold``, raised where fewer than ``min_kept`` pixels per image would remain to the
    probability at that rank (Shrivastava et al., 2016, arXiv:1604.03540, in the form of openseg,
    HRNet and MMSegmentation). Published forms take the mean over the pixels kept; so that the
    caller's division gives that mean, the sum is scaled by labelled over kept pixels.
    """
    losses = _pixel_losses(logits, labels, class_weights)
    labelled = labels != IGNORE
    with torch.no_grad():
        plain = losses if class_weights is None else _pixel_losses(logits, labels, None)
        own = torch.where(labelled, (-plain).exp(), 2.0)  # no probability, so never kept
        count = labelled.sum()
        rank = (count - 1).clamp(min=0, max=min_kept * labels.shape[0])
        limit = own.flatten().sort().values.take(rank).clamp(min=threshold)
        kept = labelled & (own < limit)
        scale = count / kept.sum().clamp(min=1)
    return torch.where(kept, losses, 0.0).sum() * scale


def presence(scores: Float[Tensor, "b k"], labels: Labels) -> Float[Tensor, ""]:
    """Binary cross entropy on "class k occurs in this image", a mean over classes.

    Each image counts by its labelled pixels, so that division by their number over all images
    gives a mean over images that no division of the batch into parts changes.
    """
    images, num_classes = scores.shape
    # One place more than there are classes takes what is not labelled.
    flat = labels.long().flatten(1).clamp(max=num_classes)
    occurs = scores.new_zeros(images, num_classes + 1, dtype=torch.float32).scatter_(1, flat, 1.0)
    losses = F.binary_cross_entropy_with_logits(
        scores.float(), occurs[:, :num_classes], reduction="none"
    )
    labelled = (labels != IGNORE).flatten(1).sum(dim=1)
    return (losses.mean(dim=1) * labelled).sum()


def list_losses() -> list[str]:
    return sorted(_LOSSES)


def _pixel_losses(
    logits: Float[Tensor, "b k hh ww"], labels: Labels, class_weights: Tensor | None
) -> Float[Tensor, "b h w"]:
    """Zero where not labelled. In float32 whatever the precision of the logits."""
    enlarged = resize(logits.float(), labels.shape[-2:])
    weights = None if class_weights is None else class_weights.to(enlarged.device)
    return F.cross_entropy(
        enlarged, labels.long(), weight=weights, ignore_index=IGNORE, reduction="none"
    )


_GIVEN = ("logits", "labels", "class_weights")
_LOSSES: dict[str, Callable[..., Tensor]] = {"cross_entropy": cross_entropy, "ohem": ohem}
