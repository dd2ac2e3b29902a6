"""How features become class scores."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from segcore.layers.convolution import conv_norm_relu


def classifier(
    inputs: int, num_classes: int, *, dropout: float = 0.1, bias: bool = True
) -> nn.Sequential:
    """Drops whole channels, then scores each pixel; the scores start near zero (std 0.01)."""
    conv = nn.Conv2d(inputs, num_classes, 1, bias=bias)
    nn.init.normal_(conv.weight, std=0.01)
    if conv.bias is not None:
        nn.init.zeros_(conv.bias)
    return nn.Sequential(nn.Dropout2d(dropout), conv)


def auxiliary_head(
    inputs: int,
    num_classes: int,
    *,
    width: int = 256,
    kernel: int = 3,
    dilation: int = 1,
    dropout: float = 0.1,
    bias: bool = False,
    classifier_bias: bool = True,
) -> nn.Sequential:
    """The small FCN that supervises an earlier feature (Zhao et al., 2017, arXiv:1612.01105,
    section 3.3), as MMSegmentation has it; ``bias`` is the convolution's before BatchNorm."""
    return nn.Sequential(
        conv_norm_relu(inputs, width, kernel, dilation=dilation, bias=bias),
        classifier(width, num_classes, dropout=dropout, bias=classifier_bias),
    )


class ContextHead(nn.Module):
    """The frame that MMSegmentation puts around a block that relates pixels to one another.

    Convolution, ``context`` (a module of ``width`` channels in and out), convolution; the result
    joins the feature it came from and is classified. Three 3x3 convolutions, as in its FCN.
    """

    def __init__(
        self, inputs: int, num_classes: int, context: nn.Module, *, width: int, dropout: float
    ) -> None:
        super().__init__()
        self.enter = conv_norm_relu(inputs, width, 3)
        self.context = context
        self.leave = conv_norm_relu(width, width, 3)
        self.join = conv_norm_relu(inputs + width, width, 3)
        self.classify = classifier(width, num_classes, dropout=dropout)

    def forward(self, feature: Float[Tensor, "b c h w"]) -> Float[Tensor, "b k h w"]:
        x = self.leave(self.context(self.enter(feature)))
        return self.classify(self.join(torch.cat([feature, x], dim=1)))
