"""The blocks that every head is made of."""

import math

from torch import nn


def kaiming_conv(
    inputs: int,
    outputs: int,
    kernel: int = 1,
    *,
    stride: int = 1,
    dilation: int = 1,
    groups: int = 1,
    bias: bool = False,
) -> nn.Conv2d:
    """A convolution of an odd ``kernel`` that keeps the size (at stride 1).

    The weights are drawn after Kaiming (He et al., 2015, arXiv:1502.01852, eq. 14) with the fan
    of one group's outputs; a bias starts at zero.
    """
    padding = dilation * (kernel // 2)
    conv = nn.Conv2d(
        inputs, outputs, kernel, stride, padding, dilation=dilation, groups=groups, bias=bias
    )
    # torch takes the outputs of all groups for the fan: depthwise weights would be far too small.
    nn.init.normal_(conv.weight, std=math.sqrt(2 * groups / (outputs * kernel**2)))
    if conv.bias is not None:
        nn.init.zeros_(conv.bias)
    return conv


def conv_norm_relu(
    inputs: int,
    outputs: int,
    kernel: int = 1,
    *,
    stride: int = 1,
    dilation: int = 1,
    groups: int = 1,
    bias: bool = False,
    relu: bool = True,
) -> nn.Sequential:
    """``kaiming_conv``, BatchNorm, ReLU; ``relu=False`` leaves the last out.

    ``bias`` changes nothing that BatchNorm does not undo; some published weights have one, and
    parameter counts tell.
    """
    conv = kaiming_conv(
        inputs, outputs, kernel, stride=stride, dilation=dilation, groups=groups, bias=bias
    )
    activation = [nn.ReLU(inplace=True)] if relu else []
    return nn.Sequential(conv, nn.BatchNorm2d(outputs), *activation)


def separable_conv_norm_relu(
    inputs: int, outputs: int, *, dilation: int = 1, inner_relu: bool = True
) -> nn.Sequential:
    """A 3x3 convolution in two: one per channel, then one per pixel (Chen et al., 2018,
    arXiv:1802.02611, section 3.1), each with BatchNorm; the first's ReLU may be left out."""
    return nn.Sequential(
        conv_norm_relu(inputs, inputs, 3, dilation=dilation, groups=inputs, relu=inner_relu),
        conv_norm_relu(inputs, outputs),
    )


def zero_conv(inputs: int, outputs: int) -> nn.Conv2d:
    """A 1x1 convolution that starts at zero: what it is joined or added to starts undisturbed."""
    conv = nn.Conv2d(inputs, outputs, 1)
    nn.init.zeros_(conv.weight)
    nn.init.zeros_(conv.bias)  # pyright: ignore[reportArgumentType] -- a bias there is
    return conv
