"""The block that every head is made of."""

from torch import nn


def conv_norm_relu(
    inputs: int, outputs: int, kernel: int = 1, *, dilation: int = 1, bias: bool = False
) -> nn.Sequential:
    """Convolution of an odd ``kernel`` that keeps the size, BatchNorm, ReLU.

    The weights are drawn after Kaiming (He et al., 2015, arXiv:1502.01852, eq. 10) with the fan
    of the outputs. ``bias`` changes nothing that BatchNorm does not undo; some published weights
    have one, and parameter counts tell.
    """
    padding = dilation * (kernel // 2)
    conv = nn.Conv2d(inputs, outputs, kernel, padding=padding, dilation=dilation, bias=bias)
    nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
    if conv.bias is not None:
        nn.init.zeros_(conv.bias)
    return nn.Sequential(conv, nn.BatchNorm2d(outputs), nn.ReLU(inplace=True))
