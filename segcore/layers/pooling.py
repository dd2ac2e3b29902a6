"""Averages over the cells of a grid, whatever the size of the map."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from segcore.layers.convolution import conv_norm_relu
from segcore.layers.resizing import resize


def adaptive_average_pool(x: Float[Tensor, "b c h w"], grid: int) -> Float[Tensor, "b c g g"]:
    """``F.adaptive_avg_pool2d(x, grid)`` as two matrix products, over columns and over rows.

    Equal up to rounding at any size. Unlike torch's operator it exports with dynamic height and
    width, and its backward is deterministic on a GPU.
    """
    # Columns first: the large map then goes through one product without being copied.
    return _average_rows(_average_rows(x, grid).mT, grid).mT


def _average_rows(x: Float[Tensor, "b c h w"], grid: int) -> Float[Tensor, "b c h g"]:
    """The average of each row's w values over the intervals [floor(i w / g), ceil((i + 1) w / g)).

    One over the number of values is what bfloat16 has to round. So the product weighs all of an
    interval by a power of two, and what that leaves over is divided out in float32 at least.
    """
    width = x.shape[-1]
    cell = torch.arange(grid, device=x.device).unsqueeze(1)
    position = torch.arange(width, device=x.device)
    start = cell * width // grid
    end = ((cell + 1) * width + grid - 1) // grid
    inside = ((position >= start) & (position < end)).float()
    weights = inside * torch.exp2(-(end - start).float().log2().ceil())
    sums = torch.matmul(x, weights.to(x.dtype).T)
    precision = torch.promote_types(sums.dtype, torch.float32)
    return (sums.to(precision) / weights.sum(dim=1)).to(sums.dtype)


class PyramidPooling(nn.Module):
    """Appends to each pixel what its cell averages to, once per grid.

    Zhao et al., 2017, arXiv:1612.01105, section 3.2. The output has ``inputs`` channels, then
    ``width`` for each grid, in their order.
    """

    def __init__(self, inputs: int, width: int, grids: Sequence[int]) -> None:
        super().__init__()
        self.grids = tuple(grids)
        self.project = nn.ModuleList(conv_norm_relu(inputs, width) for _ in self.grids)
        self.outputs = inputs + width * len(self.grids)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b cc h w"]:
        cells = (
            project(adaptive_average_pool(x, grid))
            for project, grid in zip(self.project, self.grids, strict=True)
        )
        return torch.cat([x, *(resize(cell, x.shape[-2:]) for cell in cells)], dim=1)
