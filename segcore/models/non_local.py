"""Non-local networks (Wang, Girshick, Gupta & He, 2018, arXiv:1711.07971), for segmentation.

A convolution sees its neighbours only. A non-local block answers at each position with a
weighted sum over all positions, the weights from how alike the two are, and adds that to what
was there. The head is MMSegmentation's.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from segcore.backbones import Backbone
from segcore.errors import InputError, suggestion
from segcore.layers import (
    ContextHead,
    attend,
    auxiliary_head,
    conv_norm_relu,
    sum_over_pixels,
)
from segcore.segmenter import Segmenter
from segcore.types import Images, Prediction

__all__ = ["NonLocal"]

_MODES = ("embedded_gaussian", "dot_product")


class NonLocal(Segmenter):
    """``mode`` is the paper's pairwise function: ``embedded_gaussian`` (a softmax, eq. 3) or
    ``dot_product`` (eq. 4). ``use_scale`` divides the softmax's similarities by the root of
    ``key_width``, which the paper does not."""

    def __init__(
        self,
        backbone: Backbone,
        num_classes: int,
        *,
        width: int = 512,
        key_width: int = 256,
        mode: str = "embedded_gaussian",
        use_scale: bool = True,
        dropout: float = 0.1,
        auxiliary: bool = True,
        auxiliary_width: int = 256,
    ) -> None:
        if mode not in _MODES:
            raise InputError(f"method non_local has no mode {mode!r}{suggestion(mode, _MODES)}")
        super().__init__()
        block = NonLocalBlock(width, key_width, mode=mode, use_scale=use_scale)
        self.backbone = backbone
        self.head = ContextHead(
            backbone.channels[-1], num_classes, block, width=width, dropout=dropout
        )
        if auxiliary:
            self.auxiliary = auxiliary_head(
                backbone.channels[-2], num_classes, width=auxiliary_width, dropout=dropout
            )

    def forward(self, images: Images) -> Prediction:
        features = self.backbone(images)
        logits = self.head(features[-1])
        return self.prediction(logits, features)


class NonLocalBlock(nn.Module):
    """z = x + W y (section 3.3, eq. 6). BatchNorm after W starts at zero (section 4.1), so that
    the block is the identity at first."""

    def __init__(self, channels: int, key_width: int, *, mode: str, use_scale: bool) -> None:
        super().__init__()
        self.mode = mode
        self.scale = key_width**-0.5 if use_scale else 1.0
        self.query = nn.Conv2d(channels, key_width, 1)
        self.key = nn.Conv2d(channels, key_width, 1)
        self.value = nn.Conv2d(channels, key_width, 1)
        self.project = conv_norm_relu(key_width, channels, relu=False)
        nn.init.zeros_(self.project.get_parameter("1.weight"))
        for each in (self.query, self.key, self.value):
            nn.init.normal_(each.weight, std=0.01)
            nn.init.zeros_(each.bias)  # pyright: ignore[reportArgumentType] -- a bias there is

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        query, key, value = (each(x).flatten(2) for each in (self.query, self.key, self.value))
        if self.mode == "dot_product":
            response = mix_by_dot_product(query, key, value)
        else:
            response = attend(query, key, value, scale=self.scale)
        return x + self.project(response.unflatten(2, x.shape[-2:]))


def mix_by_dot_product(
    query: Float[Tensor, "b d n"], key: Float[Tensor, "b d m"], value: Float[Tensor, "b e m"]
) -> Float[Tensor, "b e n"]:
    """(queryᵀ key) valueᵀ / m (section 3.2, eq. 4). Without a softmax the product is associative:
    keys meet values first, in a matrix of e by d."""
    means = sum_over_pixels(value, key) / key.shape[2]
    return torch.bmm(means.to(query.dtype), query)
