"""ISANet, interlaced sparse self-attention (Huang et al., 2019, arXiv:1907.12273).

The dense map of how each pixel relates to each other is the product of two sparse ones. Pixels
first attend to those that lie a whole number of cells away, all over the image, then to those in
their own cell; over the two steps each pixel hears from every other.
"""

from functools import partial

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from segcore.backbones import Backbone
from segcore.errors import InputError
from segcore.layers import (
    SelfAttention,
    attend_windows,
    auxiliary_head,
    classifier,
    conv_norm_relu,
)
from segcore.segmenter import Segmenter
from segcore.types import Images, Prediction

__all__ = ["ISANet"]


class ISANet(Segmenter):
    """``cell`` is the side of a cell in pixels of the feature.

    Another published form: openseg's ``value_bias=False, dropout=0.05, auxiliary_width=512``.
    """

    def __init__(
        self,
        backbone: Backbone,
        num_classes: int,
        *,
        width: int = 512,
        key_width: int = 256,
        cell: int = 8,
        value_bias: bool = True,
        dropout: float = 0.1,
        auxiliary: bool = True,
        auxiliary_width: int = 256,
    ) -> None:
        if cell < 1:
            raise InputError(f"method isanet: cell must be at least 1, not {cell}")
        super().__init__()
        self.backbone = backbone
        self.enter = conv_norm_relu(backbone.channels[-1], width, 3)
        self.attend = InterlacedAttention(width, key_width, cell, value_bias=value_bias)
        self.join = conv_norm_relu(2 * width, width)
        self.classify = classifier(width, num_classes, dropout=dropout)
        self.auxiliary = None
        if auxiliary:
            self.auxiliary = auxiliary_head(
                backbone.channels[-2], num_classes, width=auxiliary_width, dropout=dropout
            )

    def forward(self, images: Images) -> Prediction:
        features = self.backbone(images)
        x = self.enter(features[-1])
        logits = self.classify(self.join(torch.cat([self.attend(x), x], dim=1)))
        if self.training and self.auxiliary:
            return Prediction(logits, auxiliary=(self.auxiliary(features[-2]),))
        return Prediction(logits)


class InterlacedAttention(nn.Module):
    """Long range, then short range (section 3.2). A map whose sides are no multiples of ``cell``
    is padded with zeros on both sides; as published, the padding takes part in attention."""

    def __init__(self, width: int, key_width: int, cell: int, *, value_bias: bool) -> None:
        super().__init__()
        self.cell = cell
        self.long_range, self.short_range = (
            SelfAttention(
                width,
                key_width,
                width,
                attend=partial(attend_cells, cell=cell, interlaced=interlaced),
                project=conv_norm_relu(width, width),
                value_bias=value_bias,
            )
            for interlaced in (True, False)
        )

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        height, width = x.shape[-2:]
        padding = (*_both_sides(width, self.cell), *_both_sides(height, self.cell))
        context = self.short_range(self.long_range(F.pad(x, padding)))
        return F.pad(context, [-each for each in padding])


def _both_sides(length: int, cell: int) -> tuple[int, int]:
    lacking = (length + cell - 1) // cell * cell - length
    return lacking // 2, lacking - lacking // 2


def attend_cells(
    query: Float[Tensor, "b d h w"],
    key: Float[Tensor, "b d h w"],
    value: Float[Tensor, "b e h w"],
    *,
    cell: int,
    interlaced: bool,
) -> Float[Tensor, "b e h w"]:
    """Attention inside each cell or, if ``interlaced``, among pixels a number of cells apart."""
    rows, columns = (length // cell for length in query.shape[-2:])
    return attend_windows(query, key, value, rows, columns, interlaced=interlaced)
