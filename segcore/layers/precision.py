"""Sums over all pixels of a map, whose thousands of terms are too many for low precision."""

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor


def without_autocast(device: torch.device) -> AbstractContextManager[Any]:
    """FLOPs are counted on the meta device, which has no autocast to leave."""
    available = torch.amp.is_autocast_available(device.type)
    return torch.autocast(device.type, enabled=False) if available else nullcontext()


def sum_over_pixels(
    left: Float[Tensor, "b c n"], right: Float[Tensor, "b d n"]
) -> Float[Tensor, "b c d"]:
    """left · rightᵀ, in float32 at least, under autocast, too: float16 ends at 65504."""
    with without_autocast(left.device):
        precision = torch.promote_types(left.dtype, torch.float32)
        return torch.bmm(left.to(precision), right.to(precision).mT)
