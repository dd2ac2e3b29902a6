"""ISANet, interlaced sparse self-attention (Huang et al., 2019, arXiv:1907.12273).

The dense map of how each pixel relates to each other is the product of two sparse ones. Pixels
first attend to those that lie a whole number of cells away, all over the image, then to those in
their own cell; over the two steps each pixel hears from every other.
"""

from collections.abc import Sequence
from functools import partial

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from segcore.backbones import Backbone
from segcore.layers import (
    JoinedContext,
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
    """``cells`` are heights and widths of a cell in pixels of the feature; each of several has an
    attention of its own.

    Another published form: openseg's ``value_bias=False, dropout=0.05, auxiliary_width=512``.
    """

    def __init__(
        self,
        backbone: Backbone,
        num_classes: int,
        *,
        width: int = 512,
        key_width: int = 256,
        cells: Sequence[Sequence[int]] = ((8, 8),),
        value_bias: bool = True,
        dropout: float = 0.1,
        auxiliary: bool = True,
        auxiliary_width: int = 256,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.enter = conv_norm_relu(backbone.channels[-1], width, 3)
        self.context = JoinedContext(
            width,
            [InterlacedAttention(width, key_width, cell, value_bias=value_bias) for cell in cells],
        )
        self.classify = classifier(width, num_classes, dropout=dropout)
        if auxiliary:
            self.auxiliary = auxiliary_head(
                backbone.channels[-2], num_classes, width=auxiliary_width, dropout=dropout
            )

    def forward(self, images: Images) -> Prediction:
        features = self.backbone(images)
        logits = self.classify(self.context(self.enter(features[-1])))
        return self.prediction(logits, features)


class InterlacedAttention(nn.Module):
    """Long range, then short range (section 3.2). A map whose sides are no multiples of ``cell``'s
    is padded with zeros on both sides; as published, the padding takes part in attention."""

    def __init__(
        self, width: int, key_width: int, cell: Sequence[int], *, value_bias: bool
    ) -> None:
        super().__init__()
        self.cell = tuple(cell)
        self.long_range, self.short_range = (
            SelfAttention(
                width,
                key_width,
                width,
                attend=partial(attend_cells, cell=self.cell, interlaced=interlaced),
                project=conv_norm_relu(width, width),
                value_bias=value_bias,
            )
            for interlaced in (True, False)
        )

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        tall, wide = (_both_sides(*each) for each in zip(x.shape[-2:], self.cell, strict=True))
        context = self.short_range(self.long_range(F.pad(x, (*wide, *tall))))
        return F.pad(context, [-each for each in (*wide, *tall)])


def _both_sides(length: int, cell: int) -> tuple[int, int]:
    lacking = (length + cell - 1) // cell * cell - length
    return lacking // 2, lacking - lacking // 2


def attend_cells(
    query: Float[Tensor, "b d h w"],
    key: Float[Tensor, "b d h w"],
    value: Float[Tensor, "b e h w"],
    *,
    cell: Sequence[int],
    interlaced: bool,
) -> Float[Tensor, "b e h w"]:
    """Attention inside each cell or, if ``interlaced``, among pixels a number of cells apart."""
    height, width = query.shape[-2:]
    rows, columns = height // cell[0], width // cell[1]
    return attend_windows(query, key, value, rows, columns, interlaced=interlaced)
