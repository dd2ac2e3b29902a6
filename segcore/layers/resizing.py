"""The one way in which this project changes the size of a map."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor


def resize(x: Float[Tensor, "b c h w"], size: torch.Size) -> Float[Tensor, "b c hh ww"]:
    """Bilinear, to ``size`` (height, width), pixels as areas (``align_corners=False``)."""
    return F.interpolate(x, size, mode="bilinear", align_corners=False)
