"""SDN (Fu, Liu, Wang, Zhou, Wang & Lu, 2019, arXiv:1708.04943): stacked deconvolutional network.

Going down and up once gives back only part of the detail that was lost, so shallow units of an
encoder and a decoder are stacked, each going on from where the last one ended. Links within and
between units carry features over, and every map of every unit is supervised.
"""

from collections.abc import Iterable, Sequence
from functools import partial
from itertools import accumulate
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from segcore.backbones import Backbone
from segcore.errors import InputError
from segcore.segmenter import Segmenter
from segcore.types import Images, Prediction

__all__ = ["SDN"]

conv3x3 = partial(nn.Conv2d, kernel_size=3, padding=1)


class SDN(Segmenter):
    """``stacks`` units; the first one's encoder is the backbone, in the paper DenseNet-161 without
    its last block (``out_indices=[0, 1, 2, 3]``). All maps count alike: ``auxiliary_weight=1``.

    No code was published. Where accounts differ an option says so; the defaults have the sizes
    75.4, 148.8 and 222.1 million, with ``reduce_laterals=False`` 82.5, 163.5 and 244.5.
    """

    needed_strides = (4, 8, 16)

    def __init__(
        self,
        backbone: Backbone,
        num_classes: int,
        *,
        stacks: int = 1,
        fine_width: int = 576,
        middle_width: int = 768,
        coarse_width: int = 1024,  # at stride 16, and at 32 where the backbone goes there
        layer_width: int = 48,
        bottom_layers: int = 4,  # before a later unit's coarsest map; one port has 2
        compress_bottom: bool = True,  # one port keeps the backbone's last feature as it is
        reduce_laterals: bool = True,  # the backbone's features to layer_width; or as they are
        kernel: int = 4,  # of deconvolutions; one port has 2
        compress_last: bool = True,  # one port classifies the last unit's joined layers
        supervise_bottom: bool = True,  # one port leaves the coarsest maps out
        sum_scores: bool = True,  # over units, stride by stride; or each alone
        dropout: float = 0.0,  # one port has 0.2 behind each layer
        auxiliary: bool = True,
    ) -> None:
        if stacks < 1 or kernel not in (2, 4):
            raise InputError(f"method sdn: 1 stack or more, kernel 2 or 4; not {stacks}, {kernel}")
        super().__init__()
        self.backbone, self.sum_scores = backbone, sum_scores
        # Where two features have one stride, the later of them; coarsest first from here on.
        self.taken = tuple({stride: i for i, stride in enumerate(backbone.strides)}.values())[::-1]
        bottom, *finer = (backbone.channels[i] for i in self.taken)
        layer = partial(norm_relu_conv, outputs=layer_width, dropout=dropout)
        self.enter = conv3x3(bottom, coarse_width) if compress_bottom else nn.Identity()
        self.laterals = nn.ModuleList(map(layer if reduce_laterals else nn.Identity, finer))
        laterals = [layer_width if reduce_laterals else each for each in finer]
        widths = [coarse_width] * (len(finer) - 1) + [middle_width, fine_width]
        self.units, maps = nn.ModuleList(), [coarse_width if compress_bottom else bottom]
        for number in range(1, stacks + 1):
            widths[-1] = fine_width if compress_last or number < stacks else 0
            self.units.append(unit := Unit(maps, laterals, widths, layer, bottom_layers, kernel))
            maps = unit.outputs
        self.classify = scorers(self.units, -1, num_classes)
        levels = range(0 if supervise_bottom else 1, len(finer)) if auxiliary else ()
        self.auxiliary = nn.ModuleList(scorers(self.units, i, num_classes) for i in levels)

    def forward(self, images: Images) -> Prediction:
        features = self.backbone(images)
        bottom, *finer = (features[i] for i in self.taken)
        laterals = [reduce(each) for reduce, each in zip(self.laterals, finer, strict=True)]
        maps, by_unit = [self.enter(bottom)], []
        for unit in self.units:
            maps = unit(maps, laterals)
            by_unit.append(maps)
        heads = [*(self.auxiliary if self.training else ()), self.classify]
        by_stride = list(zip(*by_unit, strict=True))[-len(heads) :]
        scores: list[Tensor] = []
        for row, maps in zip(heads, by_stride, strict=True):
            alone = [head(each) for head, each in zip(row, maps, strict=True)]
            scores += accumulate(alone) if self.sum_scores else alone
        return Prediction(scores[-1], auxiliary=tuple(scores[:-1]) if self.training else ())


def scorers(units: Iterable[Any], level: int, num_classes: int) -> nn.ModuleList:
    return nn.ModuleList(conv3x3(unit.outputs[level], num_classes) for unit in units)


class Unit(nn.Module):
    """Down from the finest map of the unit before, if there is one, then up; maps are coarsest
    first. What comes to a stride is joined to what is there: on the way down the map of the unit
    before, on the way up the backbone's. A width of 0 leaves a map uncompressed."""

    def __init__(
        self,
        before: Sequence[int],
        laterals: Sequence[int],
        widths: Sequence[int],
        layer: partial[nn.Sequential],
        bottom_layers: int,
        kernel: int,
    ) -> None:
        super().__init__()
        *links, x = before
        turn, outputs = len(links), [x]
        self.moves, self.blocks = nn.ModuleList(), nn.ModuleList()
        ways = [*widths[:turn][::-1], *widths[1:]]
        for i, (link, width) in enumerate(zip([*links[::-1], *laterals], ways, strict=True)):
            layers = bottom_layers if i == turn - 1 else 2
            joined = [x + link + layer.keywords["outputs"] * each for each in range(layers + 1)]
            compress = conv3x3(joined[-1], width) if width else nn.Identity()
            self.moves.append(nn.MaxPool2d(2, ceil_mode=True) if i < turn else deconv(x, kernel))
            self.blocks.append(nn.Sequential(*(Joined(layer(c)) for c in joined[:-1]), compress))
            outputs.append(x := width or joined[-1])
        self.outputs = outputs[turn:]

    def forward(self, before: list[Tensor], laterals: list[Tensor]) -> list[Tensor]:
        *links, x = before
        maps, links = [x], [*links[::-1], *laterals]
        for move, block, link in zip(self.moves, self.blocks, links, strict=True):
            x = move(maps[-1])[..., : link.shape[-2], : link.shape[-1]]
            maps.append(block(torch.cat([x, link], dim=1)))
        return maps[len(before) - 1 :]


class Joined(nn.Sequential):
    """What it computes, joined to what it was given: the links within a unit."""

    def forward(self, input: Float[Tensor, "b c h w"]) -> Float[Tensor, "b cc h w"]:
        return torch.cat([input, super().forward(input)], dim=1)


def norm_relu_conv(inputs: int, outputs: int, dropout: float) -> nn.Sequential:
    conv = conv3x3(inputs, outputs)
    return nn.Sequential(nn.BatchNorm2d(inputs), nn.ReLU(inplace=True), conv, nn.Dropout(dropout))


def deconv(width: int, kernel: int) -> nn.ConvTranspose2d:
    """To twice the size and one more, from which the size of any finer map is cut."""
    return nn.ConvTranspose2d(width, width, kernel, 2, (kernel - 1) // 2, output_padding=1)
