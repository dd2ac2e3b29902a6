"""Losses that a pixel has on its own."""

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Integer
from torch import Tensor

from segcore.layers import resize
from segcore.types import IGNORE, Labels

ClassWeights = Float[Tensor, " k"] | None


def cross_entropy(
    logits: Float[Tensor, "b k hh ww"], labels: Labels, *, class_weights: ClassWeights = None
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
    class_weights: ClassWeights = None,
    threshold: float = 0.7,
    min_kept: int = 100_000,
    downsample_labels: bool = False,
) -> Float[Tensor, ""]:
    """Cross entropy on the hard pixels alone: those whose own class has a probability below t.

    t is ``threshold``, raised where fewer than ``min_kept`` pixels per image would remain to the
    probability at that rank (Shrivastava et al., 2016, arXiv:1604.03540, in the form of openseg,
    HRNet and MMSegmentation). Published forms take the mean over the pixels kept; so that the
    caller's division gives that mean, the sum is scaled by labelled over kept pixels.

    ``downsample_labels`` brings the labels to the logits' grid instead of the other way round:
    with ``threshold=0.6, min_kept=256`` the bootstrapping of Wu et al., 2016, arXiv:1611.10080.
    """
    count = (labels != IGNORE).sum()
    if downsample_labels:
        labels = _nearest(labels, logits.shape[-2:])
    losses, probabilities = _ranked(logits, labels, class_weights)
    with torch.no_grad():
        labelled = labels != IGNORE
        own = torch.where(labelled, probabilities, 2.0)  # no probability, so never kept
        rank = (labelled.sum() - 1).clamp(min=0, max=min_kept * labels.shape[0])
        limit = own.flatten().sort().values.take(rank).clamp(min=threshold)
        kept = labelled & (own < limit)
    return _scaled_sum(losses, kept, count)


def ohem_by_loss(
    logits: Float[Tensor, "b k hh ww"],
    labels: Labels,
    *,
    class_weights: ClassWeights = None,
    threshold: float = 0.7,
    min_share: float = 1 / 16,
) -> Float[Tensor, ""]:
    """``ohem`` in the form that BiSeNet is trained with: kept are the pixels whose loss is above
    -log ``threshold``, but at least ``min_share`` of the labelled ones, those of greatest loss.
    """
    losses, probabilities = _ranked(logits, labels, class_weights)
    with torch.no_grad():
        labelled = labels != IGNORE
        count = labelled.sum()
        own = torch.where(labelled, probabilities, 2.0).flatten()
        number = torch.maximum((own < threshold).sum(), (count * min_share).long())
        first = torch.arange(len(own), device=own.device) < number
        kept = torch.zeros_like(first).scatter(0, own.argsort(), first).view_as(labelled)
    return _scaled_sum(losses, kept, count)


def class_scores(logits: Float[Tensor, "b k hh ww"], labels: Labels) -> Float[Tensor, "b k h w"]:
    """Enlarged to the labels' size; in float32 at least, whatever the precision of the logits."""
    return resize(logits.to(torch.promote_types(logits.dtype, torch.float32)), labels.shape[-2:])


def _pixel_losses(
    logits: Float[Tensor, "b k hh ww"], labels: Labels, class_weights: ClassWeights
) -> Float[Tensor, "b h w"]:
    """Zero where not labelled."""
    scores = class_scores(logits, labels)
    weights = None if class_weights is None else class_weights.to(scores)
    return F.cross_entropy(
        scores, labels.long(), weight=weights, ignore_index=IGNORE, reduction="none"
    )


def _ranked(
    logits: Float[Tensor, "b k hh ww"], labels: Labels, class_weights: ClassWeights
) -> tuple[Float[Tensor, "b h w"], Float[Tensor, "b h w"]]:
    """Losses, and the probabilities of the pixels' own classes, which weights do not touch."""
    losses = _pixel_losses(logits, labels, class_weights)
    with torch.no_grad():
        plain = losses if class_weights is None else _pixel_losses(logits, labels, None)
        return losses, (-plain).exp()


def _scaled_sum(
    losses: Float[Tensor, "b h w"], kept: Bool[Tensor, "b h w"], count: Tensor
) -> Float[Tensor, ""]:
    return torch.where(kept, losses, 0.0).sum() * (count / kept.sum().clamp(min=1))


def _nearest(labels: Labels, size: torch.Size) -> Integer[Tensor, "b hh ww"]:
    return F.interpolate(labels[:, None].float(), size, mode="nearest-exact")[:, 0].long()
