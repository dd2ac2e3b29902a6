"""ANN, asymmetric non-local network (Zhu et al., 2019, arXiv:1908.07678).

Pixels need not attend to every pixel: averages over a few grids of cells, 110 vectors in all, say
as much at a fraction of the cost. The last feature first attends to the averages of the feature
before it, which joins two levels, and then to its own.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from segcore.backbones import Backbone
from segcore.layers import (
    adaptive_average_pool,
    attend,
    auxiliary_head,
    classifier,
    conv_norm_relu,
    zero_conv,
)
from segcore.segmenter import Segmenter
from segcore.types import Images, Prediction

__all__ = ["ANN"]


class ANN(Segmenter):
    """``grids`` are the cells a side of each grid that keys and values are averaged over.

    Another published form: the authors' ``bias=True, dropout=0.05, auxiliary_width=512``.
    """

    needed_features = 2

    def __init__(
        self,
        backbone: Backbone,
        num_classes: int,
        *,
        width: int = 512,
        key_width: int = 256,
        grids: Sequence[int] = (1, 3, 6, 8),
        bias: bool = False,
        dropout: float = 0.1,
        auxiliary: bool = True,
        auxiliary_width: int = 256,
    ) -> None:
        super().__init__()
        *_, middle, last = backbone.channels
        self.backbone = backbone
        self.across = FusionAttention(last, middle, key_width, grids, bias=bias)
        self.fuse = conv_norm_relu(2 * last, last, bias=bias, relu=False)
        self.reduce = nn.Sequential(
            nn.Dropout2d(dropout), conv_norm_relu(last, width, 3, bias=bias)
        )
        self.within = PyramidAttention(width, key_width, grids, bias=bias)
        self.join = conv_norm_relu(2 * width, width, bias=bias)
        self.classify = classifier(width, num_classes, dropout=dropout)
        if auxiliary:
            self.auxiliary = auxiliary_head(
                middle, num_classes, width=auxiliary_width, dropout=dropout, bias=bias
            )

    def forward(self, images: Images) -> Prediction:
        features = self.backbone(images)
        *_, middle, last = features
        fused = self.fuse(torch.cat([self.across(last, middle), last], dim=1))
        x = self.reduce(fused)
        logits = self.classify(self.join(torch.cat([self.within(x), x], dim=1)))
        return self.prediction(logits, features)


class FusionAttention(nn.Module):
    """Pixels of one feature attend to averages of another (section 3.3, AFNB). It adds nothing
    at first: the last convolution starts at zero."""

    def __init__(
        self, channels: int, source: int, key_width: int, grids: Sequence[int], *, bias: bool
    ) -> None:
        super().__init__()
        self.grids = tuple(grids)
        self.query = conv_norm_relu(channels, key_width, bias=bias)
        self.key = conv_norm_relu(source, key_width, bias=bias)
        self.value = nn.Conv2d(source, key_width, 1)
        self.project = zero_conv(key_width, channels)

    def forward(
        self, x: Float[Tensor, "b c h w"], source: Float[Tensor, "b cc hh ww"]
    ) -> Float[Tensor, "b c h w"]:
        key, value = self.key(source), self.value(source)
        return self.project(attend_averages(self.query(x), key, value, self.grids))


class PyramidAttention(nn.Module):
    """Pixels attend to averages of their own feature (section 3.2, APNB); one projection makes
    both queries and keys. It, too, adds nothing at first."""

    def __init__(self, channels: int, key_width: int, grids: Sequence[int], *, bias: bool) -> None:
        super().__init__()
        self.grids = tuple(grids)
        self.query = conv_norm_relu(channels, key_width, bias=bias)
        self.value = nn.Conv2d(channels, key_width, 1)
        self.project = zero_conv(key_width, channels)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        query = self.query(x)
        return self.project(attend_averages(query, query, self.value(x), self.grids))


def attend_averages(
    query: Float[Tensor, "b d h w"],
    key: Float[Tensor, "b d hh ww"],
    value: Float[Tensor, "b e hh ww"],
    grids: Sequence[int],
) -> Float[Tensor, "b e h w"]:
    """Attention over what keys and values average to in the cells of every grid."""
    tokens = (_sample(key, grids), _sample(value, grids))
    return attend(query.flatten(2), *tokens).unflatten(2, query.shape[-2:])


def _sample(x: Float[Tensor, "b c h w"], grids: Sequence[int]) -> Float[Tensor, "b c s"]:
    return torch.cat([adaptive_average_pool(x, grid).flatten(2) for grid in grids], dim=2)
