"""OCNet (Yuan et al., 2018, arXiv:1809.00916).

The context of a pixel is the set of pixels of the same object. How much each of the others belongs
to it is learned by self-attention, and their mixture, joined to the pixel's own feature, is
classified. Windows of several sizes, or atrous convolutions beside it, add scales.
"""

from collections.abc import Callable, Sequence
from functools import partial

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from segcore.backbones import Backbone
from segcore.errors import InputError
from segcore.layers import (
    AtrousPyramid,
    JoinedContext,
    SelfAttention,
    attend_grid,
    auxiliary_head,
    classifier,
    conv_norm_relu,
    resize,
    zero_conv,
)
from segcore.segmenter import Segmenter
from segcore.types import Images, Prediction

__all__ = ["OCNet"]


class OCNet(Segmenter):
    """``context`` is base, pyramid (reads ``grids``) or asp (reads ``dilations``). ``shared``: one
    convolution gives both queries and keys, instead of two for each.

    The defaults are openseg's Base-OC. Its ASP-OC is ``context="asp", key_width=128,
    value_width=128, dropout=0.1``. The authors' first code has ``shared=True``, with
    ``context="pyramid", value_width=512`` or ``context="asp", key_width=128, dropout=0.1``.
    """

    def __init__(
        self,
        backbone: Backbone,
        num_classes: int,
        *,
        context: str = "base",
        width: int = 512,
        key_width: int = 256,
        value_width: int = 256,
        shared: bool = False,
        grids: Sequence[int] = (1, 2, 3, 6),
        dilations: Sequence[int] = (12, 24, 36),
        bias: bool = True,
        dropout: float = 0.05,
        auxiliary: bool = True,
        auxiliary_width: int = 512,
    ) -> None:
        def attention(channels: int, grid: int) -> SelfAttention:
            return SelfAttention(
                channels,
                key_width,
                value_width,
                attend=partial(attend_grid, grid=grid),
                project=zero_conv(value_width, channels),
                shared=shared,
                bias=bias,
            )

        super().__init__()
        self.backbone = backbone
        self.enter = conv_norm_relu(backbone.channels[-1], width, 3, bias=bias)
        self.context = object_context(context, width, grids, dilations, attention, bias=bias)
        self.classify = classifier(width, num_classes, dropout=dropout)
        if auxiliary:
            middle = backbone.channels[-2]
            self.auxiliary = auxiliary_head(
                middle, num_classes, width=auxiliary_width, dropout=dropout, bias=bias
            )

    def forward(self, images: Images) -> Prediction:
        features = self.backbone(images)
        logits = self.classify(self.context(self.enter(features[-1])))
        return self.prediction(logits, features)


def object_context(
    form: str,
    width: int,
    grids: Sequence[int],
    dilations: Sequence[int],
    attention: Callable[[int, int], nn.Module],
    *,
    bias: bool,
) -> nn.Module:
    """``attention`` makes a unit for a number of channels and a grid of windows."""
    if form == "base":
        return JoinedContext(width, [attention(width, 1)], bias=bias)
    if form == "pyramid":
        return JoinedContext(width, [attention(width, grid) for grid in grids], bias=bias)
    if form == "asp":
        return ASPContext(width, attention(width // 2, 1), dilations, bias=bias)
    raise InputError(f"method ocnet: context is base, pyramid or asp, not {form!r}")


class ASPContext(nn.Module):
    """An atrous pyramid where attention, at half the resolution, stands for image pooling."""

    def __init__(
        self, width: int, attention: nn.Module, dilations: Sequence[int], *, bias: bool
    ) -> None:
        super().__init__()
        half = width // 2
        self.enter = conv_norm_relu(width, half, 3, bias=bias)
        self.attention = attention
        self.leave = conv_norm_relu(half, half, bias=bias)
        self.pyramid = AtrousPyramid(width, half, dilations)
        self.join = conv_norm_relu(half + self.pyramid.outputs, width)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        halves = [min(2, side) for side in x.shape[-2:]]  # a map of one pixel has no half
        context = self.attention(F.max_pool2d(self.enter(x), halves))
        context = self.leave(resize(context, x.shape[-2:]))
        return self.join(torch.cat([context, self.pyramid(x)], dim=1))
