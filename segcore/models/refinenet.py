"""RefineNet (Lin, Milan, Shen & Reid, 2017, arXiv:1611.06612), the 4-cascaded form.

Dilation keeps resolution at the price of memory; RefineNet gets it back from the features that
an ordinary network has on the way down. From the coarsest to the finest, each level adapts its
feature, adds what came from below, and gathers context by chained pooling, all of it residual.
"""

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from segcore.backbones import Backbone
from segcore.layers import resize
from segcore.segmenter import Segmenter
from segcore.types import Images, Prediction

__all__ = ["RefineNet"]

_STRIDES = (4, 8, 16, 32)


class RefineNet(Segmenter):
    """The form of both public implementations, four poolings in a chain and three units behind
    it; the paper's text (section 3.2) has ``pools=2, output_units=1``. ``coarse_width`` is the
    width of the level at stride 32, ``width`` that of the others."""

    needed_strides = _STRIDES

    def __init__(
        self,
        backbone: Backbone,
        num_classes: int,
        *,
        width: int = 256,
        coarse_width: int = 512,
        pools: int = 4,
        output_units: int = 3,
        dropout: float = 0.5,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.taken = tuple(map(backbone.index_of, _STRIDES))
        *finer, coarsest = (backbone.channels[i] for i in self.taken)
        self.dropout = nn.Dropout(dropout)
        self.coarsest = nn.Sequential(
            adapt(coarsest, coarse_width), gather(coarse_width, pools, output_units)
        )
        self.finer = nn.ModuleList(
            FusingBlock(inputs, width, below, pools, output_units)
            for inputs, below in zip(reversed(finer), (coarse_width, width, width), strict=True)
        )
        self.classify = conv(width, num_classes, bias=True)

    def forward(self, images: Images) -> Prediction:
        features = self.backbone(images)
        fine, middle, coarse, coarsest = (features[i] for i in self.taken)
        x = self.coarsest(self.dropout(coarsest))
        for block, feature in zip(self.finer, (self.dropout(coarse), middle, fine), strict=True):
            x = block(feature, x)
        return Prediction(self.classify(self.dropout(x)))


class FusingBlock(nn.Module):
    """Adds to its feature what the coarser level gives, then gathers context (figure 3).

    Both are convolved first and the coarser one enlarged after that, at a quarter of the cost.
    """

    def __init__(self, inputs: int, width: int, below: int, pools: int, output_units: int) -> None:
        super().__init__()
        self.adapt = adapt(inputs, width)
        self.project = conv(width, width)
        self.below = conv(below, width)
        self.gather = gather(width, pools, output_units)

    def forward(
        self, feature: Float[Tensor, "b c1 h w"], below: Float[Tensor, "b c2 h2 w2"]
    ) -> Float[Tensor, "b c h w"]:
        x = self.project(self.adapt(feature))
        return self.gather(x + resize(self.below(below), x.shape[-2:]))


def adapt(inputs: int, width: int) -> nn.Sequential:
    return nn.Sequential(conv(inputs, width), ResidualUnit(width), ResidualUnit(width))


def gather(width: int, pools: int, output_units: int) -> nn.Sequential:
    units = (ResidualUnit(width) for _ in range(output_units))
    return nn.Sequential(ChainedPooling(width, pools), *units)


class ResidualUnit(nn.Module):
    """A residual unit without BatchNorm: batches of one image are meant to train (RCU)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = conv(width, width, bias=True)
        self.second = conv(width, width)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        return x + self.second(F.relu(self.first(F.relu(x))))


class ChainedPooling(nn.Module):
    """Each pooling widens the one before it, and all of them are added to the rectified input."""

    def __init__(self, width: int, pools: int) -> None:
        super().__init__()
        self.convs = nn.ModuleList(conv(width, width) for _ in range(pools))

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        x = pooled = F.relu(x)
        for each in self.convs:
            pooled = each(F.max_pool2d(pooled, 5, stride=1, padding=2))
            x = x + pooled
        return x


def conv(inputs: int, outputs: int, *, bias: bool = False) -> nn.Conv2d:
    """3x3. Kaiming's weights would double the variance in every unit and, with no BatchNorm to
    undo it, start the scores in the thousands."""
    convolution = nn.Conv2d(inputs, outputs, 3, padding=1, bias=bias)
    nn.init.normal_(convolution.weight, std=0.01)
    if convolution.bias is not None:
        nn.init.zeros_(convolution.bias)
    return convolution
