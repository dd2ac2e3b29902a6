"""Labels of any model, moved inward at their boundaries."""

import torch
from jaxtyping import UInt8
from torch import Tensor

from segcore.segfix.moves import OFFSETS


def refine(
    labels: UInt8[Tensor, "b h w"], moves: UInt8[Tensor, "b h w"], *, step: int = 2
) -> UInt8[Tensor, "b h w"]:
    """Every pixel takes the label ``step`` pixels (along each axis) on in its direction, at the
    image's border that of the border (arXiv:2007.04269, section 3.3).

    ``moves`` are classes of ``MOVES``: pixels that stay keep their label. Labels are taken
    whole, so no class appears that was not there, and applied once: moves are those of the image,
    not of the labels.
    """
    height, width = labels.shape[-2:]
    offsets = step * torch.tensor(OFFSETS, device=moves.device)[moves.long()]
    rows = torch.arange(height, device=moves.device)[:, None] + offsets[..., 0]
    columns = torch.arange(width, device=moves.device) + offsets[..., 1]
    places = rows.clamp(0, height - 1) * width + columns.clamp(0, width - 1)
    return labels.flatten(1).gather(1, places.flatten(1)).view_as(labels)
