"""Losses as sums over labelled pixels; the caller divides by their number, everywhere.

Workers, and the parts of an accumulated batch, hold different numbers of labelled pixels. A sum
over them all, divided once, weights every pixel alike; a mean of their means does not. What is
no sum of pixels (a region's overlap, presence) is computed image by image and counts each image
by its labelled pixels: no division of the batch into parts changes it. OHEM alone depends on the
part at hand, which it takes the hard pixels of.
"""

import inspect
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from segcore.errors import InputError, suggestion
from segcore.losses.balance import balanced_weights
from segcore.losses.pixels import cross_entropy, ohem, ohem_by_loss
from segcore.losses.presence import presence
from segcore.losses.regions import dice, lovasz
from segcore.types import Labels, Prediction

__all__ = [
    "Criterion",
    "balanced_weights",
    "build_criterion",
    "cross_entropy",
    "dice",
    "list_losses",
    "lovasz",
    "ohem",
    "ohem_by_loss",
    "presence",
]

Criterion = Callable[[Prediction, Labels], Tensor]


def build_criterion(
    name: str,
    *,
    auxiliary_weight: float | Sequence[float] = 0.4,
    presence_weight: float = 0.2,
    dice_weight: float = 0.0,
    lovasz_weight: float = 0.0,
    class_weights: Sequence[float] | None = None,
    **options: Any,
) -> Criterion:
    """A function of prediction and labels that gives the batch's loss, a sum over its pixels.

    ``name`` is that of the loss on the main logits; ``dice_weight`` and ``lovasz_weight`` add
    region losses to it. Auxiliary logits are supervised by cross entropy with
    ``auxiliary_weight``, one for all (MMSegmentation: 0.4; BiSeNet: 1) or one for each (its
    DANet: 1, 1, 0.4); presence by binary cross entropy with ``presence_weight`` (EncNet, Zhang et
    al., 2018, arXiv:1803.08904, section 3.1: 0.2). ``class_weights`` holds one weight per class,
    for all pixel losses; region losses count every class of an image alike. Labels may be uint8.
    A batch without a labelled pixel gives exactly zero, with zero gradients. Raises InputError on
    an unknown name or option.
    """
    losses = _PIXEL_LOSSES | _REGION_LOSSES
    if name not in losses:
        raise InputError(f"no loss {name!r}{suggestion(name, losses)}")
    known = [each for each in inspect.signature(losses[name]).parameters if each not in _GIVEN]
    for option in options:
        if option not in known:
            raise InputError(f"loss {name} has no option {option!r}{suggestion(option, known)}")
    weights = None if class_weights is None else torch.tensor(class_weights, dtype=torch.float32)
    given = {"class_weights": weights} if name in _PIXEL_LOSSES else {}
    regions = {dice: dice_weight, lovasz: lovasz_weight}
    return partial(
        _total,
        main=partial(losses[name], **given, **options),
        regions={loss: weight for loss, weight in regions.items() if weight},
        auxiliary=partial(cross_entropy, class_weights=weights),
        auxiliary_weight=auxiliary_weight,
        presence_weight=presence_weight,
    )


def _total(
    prediction: Prediction,
    labels: Labels,
    *,
    main: Callable[..., Tensor],
    regions: dict[Callable[..., Tensor], float],
    auxiliary: Callable[..., Tensor],
    auxiliary_weight: float | Sequence[float],
    presence_weight: float,
) -> Float[Tensor, ""]:
    labels = labels.long()
    total = main(prediction.logits, labels)
    for loss, weight in regions.items():
        total = total + weight * loss(prediction.logits, labels)
    outputs = prediction.auxiliary
    for logits, weight in zip(outputs, _one_each(auxiliary_weight, len(outputs)), strict=True):
        total = total + weight * auxiliary(logits, labels)
    if prediction.presence is not None:
        total = total + presence_weight * presence(prediction.presence, labels)
    return total


def _one_each(weight: float | Sequence[float], count: int) -> Sequence[float]:
    if isinstance(weight, (int, float)):
        return [weight] * count
    if len(weight) != count:
        raise InputError(
            f"auxiliary_weight lists {len(weight)} weights, the method has {count} auxiliary "
            "outputs; give as many, or one number for all"
        )
    return weight


def list_losses() -> list[str]:
    return sorted(_PIXEL_LOSSES | _REGION_LOSSES)


_GIVEN = ("logits", "labels", "class_weights")
_PIXEL_LOSSES: dict[str, Callable[..., Tensor]] = {
    "cross_entropy": cross_entropy,
    "ohem": ohem,
    "ohem_by_loss": ohem_by_loss,
}
_REGION_LOSSES: dict[str, Callable[..., Tensor]] = {"dice": dice, "lovasz": lovasz}
