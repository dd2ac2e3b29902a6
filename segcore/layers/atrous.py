"""Several fields of view on one feature, side by side (Chen et al., 2017, arXiv:1706.05587)."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from segcore.layers.convolution import (
    conv_norm_relu,
    kaiming_conv,
    separable_conv_norm_relu,
)


class AtrousPyramid(nn.Module):
    """A 1x1 convolution and one 3x3 convolution per dilation, their outputs joined (section 3.3).

    ``width`` channels each; ``separable`` is DeepLabV3+'s form (arXiv:1802.02611, section 3.1),
    ``bias`` is for the convolutions that are not. The output has ``outputs`` channels.
    """

    def __init__(
        self,
        inputs: int,
        width: int,
        dilations: Sequence[int],
        *,
        separable: bool = False,
        bias: bool = False,
    ) -> None:
        super().__init__()
        branches = [conv_norm_relu(inputs, width, bias=bias)]
        for dilation in dilations:
            if separable:
                branches.append(separable_conv_norm_relu(inputs, width, dilation=dilation))
            else:
                branches.append(conv_norm_relu(inputs, width, 3, dilation=dilation, bias=bias))
        self.branches = nn.ModuleList(branches)
        self.outputs = width * len(branches)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b cc h w"]:
        return torch.cat([branch(x) for branch in self.branches], dim=1)


class ImagePooling(nn.Module):
    """The whole image's average, projected and given back to every pixel (section 3.3)."""

    def __init__(self, inputs: int, width: int) -> None:
        super().__init__()
        self.project = conv_norm_relu(inputs, width)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b cc h w"]:
        average = x.mean(dim=(2, 3), keepdim=True)
        return self.project(average).expand(-1, -1, *x.shape[-2:])


def atrous_classifier(inputs: int, num_classes: int, dilation: int) -> nn.Conv2d:
    """A 3x3 convolution straight to class scores, which start near zero (std 0.01): a classifier
    with a field of view (Chen et al., 2016, arXiv:1606.00915, section 3.2)."""
    conv = kaiming_conv(inputs, num_classes, 3, dilation=dilation, bias=True)
    nn.init.normal_(conv.weight, std=0.01)
    return conv
