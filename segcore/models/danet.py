"""DANet (Fu, Liu, Tian et al., 2019, arXiv:1809.02983): dual attention.

Two kinds of dependence are modelled side by side. Position attention updates each pixel with all
pixels alike to it, wherever they are; channel attention updates each channel map with all
channel maps. The sum of both branches is classified, and in training each branch as well.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from segcore.backbones import Backbone
from segcore.layers import (
    attend,
    auxiliary_head,
    classifier,
    conv_norm_relu,
    sum_over_pixels,
)
from segcore.segmenter import Segmenter
from segcore.types import Images, Prediction

__all__ = ["DANet"]


class DANet(Segmenter):
    """The branches' own classifiers are part of the method, each to be weighted like the main one
    (``auxiliary: false, auxiliary_weight: 1.0``); ``auxiliary`` is the head on an earlier feature
    that MMSegmentation adds, with a weight of 0.4, and the paper does without."""

    def __init__(
        self,
        backbone: Backbone,
        num_classes: int,
        *,
        width: int = 512,
        key_width: int = 64,
        dropout: float = 0.1,
        auxiliary: bool = True,
        auxiliary_width: int = 256,
    ) -> None:
        super().__init__()
        inputs = backbone.channels[-1]
        self.backbone = backbone
        self.position = nn.Sequential(
            conv_norm_relu(inputs, width, 3),
            PositionAttention(width, key_width),
            conv_norm_relu(width, width, 3),
        )
        self.channel = nn.Sequential(
            conv_norm_relu(inputs, width, 3),
            ChannelAttention(),
            conv_norm_relu(width, width, 3),
        )
        self.classify = classifier(width, num_classes, dropout=dropout)
        self.classify_position = classifier(width, num_classes, dropout=dropout)
        self.classify_channel = classifier(width, num_classes, dropout=dropout)
        if auxiliary:
            self.auxiliary = auxiliary_head(
                backbone.channels[-2], num_classes, width=auxiliary_width, dropout=dropout
            )

    def forward(self, images: Images) -> Prediction:
        features = self.backbone(images)
        position, channel = self.position(features[-1]), self.channel(features[-1])
        logits = self.classify(position + channel)
        if not self.training:
            return Prediction(logits)
        auxiliary = (self.classify_position(position), self.classify_channel(channel))
        if self.auxiliary:
            auxiliary = (*auxiliary, self.auxiliary(features[-2]))
        return Prediction(logits, auxiliary=auxiliary)


class PositionAttention(nn.Module):
    """Pixels attend to pixels, unscaled (section 3.2, eq. 1, 2); ``gain`` starts at zero."""

    def __init__(self, channels: int, key_width: int) -> None:
        super().__init__()
        self.query = nn.Conv2d(channels, key_width, 1)
        self.key = nn.Conv2d(channels, key_width, 1)
        self.value = nn.Conv2d(channels, channels, 1)
        self.gain = nn.Parameter(torch.tensor(0.0))

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        query, key, value = (each(x).flatten(2) for each in (self.query, self.key, self.value))
        mixed = attend(query, key, value, scale=1.0)
        return x + self.gain * mixed.unflatten(2, x.shape[-2:])


class ChannelAttention(nn.Module):
    """Channel maps attend to channel maps (section 3.3, eq. 3, 4); ``gain`` starts at zero."""

    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.tensor(0.0))

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        return x + self.gain * mix_channels(x)


def mix_channels(x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
    """Each channel's mixture of those that are least like it.

    The paper's eq. 3 weighs the most alike. Its published code, which all published weights come
    from, subtracts the similarities from their maximum first; the maximum cancels in a softmax.
    """
    channels = x.flatten(2)
    weights = (-sum_over_pixels(channels, channels)).softmax(dim=-1).to(channels.dtype)
    return torch.bmm(weights, channels).unflatten(2, x.shape[-2:])
