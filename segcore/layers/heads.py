"""How features become class scores."""

from torch import nn

from segcore.layers.convolution import conv_norm_relu


def classifier(inputs: int, num_classes: int, *, dropout: float = 0.1) -> nn.Sequential:
    """Drops whole channels, then scores each pixel; the scores start near zero (std 0.01)."""
    conv = nn.Conv2d(inputs, num_classes, 1)
    nn.init.normal_(conv.weight, std=0.01)
    nn.init.zeros_(conv.bias)  # pyright: ignore[reportArgumentType] -- a bias there is
    return nn.Sequential(nn.Dropout2d(dropout), conv)


def auxiliary_head(
    inputs: int,
    num_classes: int,
    *,
    width: int = 256,
    kernel: int = 3,
    dropout: float = 0.1,
    bias: bool = False,
) -> nn.Sequential:
    """The small FCN that supervises an earlier feature (Zhao et al., 2017, arXiv:1612.01105,
    section 3.3), as MMSegmentation has it."""
    return nn.Sequential(
        conv_norm_relu(inputs, width, kernel, bias=bias),
        classifier(width, num_classes, dropout=dropout),
    )
