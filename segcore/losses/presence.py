"""Which classes does an image show at all?"""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from segcore.types import IGNORE, Labels


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
