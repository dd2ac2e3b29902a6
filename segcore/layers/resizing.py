"""The one way in which this project changes the size of a map."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor


def resize(
    x: Float[Tensor, "b c h w"], size: torch.Size, *, mode: str = "bilinear"
) -> Float[Tensor, "b c hh ww"]:
    """To ``size`` (height, width), pixels as areas (``align_corners=False``, torch's default);
    ``mode`` is ``bilinear``, or ``nearest`` where a published network has it."""
    return F.interpolate(x, size, mode=mode)
