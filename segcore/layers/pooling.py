"""Averages over the cells of a grid, whatever the size of the map."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from segcore.layers.convolution import conv_norm_relu
from segcore.layers.resizing import resize


def adaptive_average_pool(x: Float[Tensor, "b c h w"], grid: int) -> Float[Tensor, "b c g g"]:
    """``F.adaptive_avg_pool2d(x, grid)`` as two matrix products: rows · x · columnsᵀ.

    Equal up to rounding at any size. Unlike torch's operator it exports with dynamic height and
    width, and its backward is deterministic on a GPU.
    """
    height, width = x.shape[-2:]
    rows = _averaging_matrix(grid, height, x)
    columns = _averaging_matrix(grid, width, x)
    # Columns first: the large map then goes through one product without being copied.
    narrow = torch.matmul(x, columns.T)
    return torch.matmul(narrow.transpose(-1, -2), rows.T).transpose(-1, -2)


def _averaging_matrix(cells: int, length: int, like: Tensor) -> Float[Tensor, "g n"]:
    """Row i averages the interval [floor(i n / g), ceil((i + 1) n / g)) of n positions."""
    cell = torch.arange(cells, device=like.device).unsqueeze(1)
    position = torch.arange(length, device=like.device)
    start = cell * length // cells
    end = ((cell + 1) * length + cells - 1) // cells
    inside = (position >= start) & (position < end)
    return inside.to(like.dtype) / (end - start).to(like.dtype)


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
