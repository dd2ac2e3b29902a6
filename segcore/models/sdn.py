"""SDN (Fu, Liu, Wang, Zhou, Wang & Lu, 2019, arXiv:1708.04943): stacked deconvolutional network.

Going down and up once gives back only part of the detail that was lost, so shallow units of an
encoder and a decoder are stacked, each going on from where the last one ended. Links within and
between units carry features over, and every map of every unit is supervised.
"""

from collections.abc import Sequence
from functools import partial
from itertools import accumulate
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from segcore.backbones import Backbone
from segcore.segmenter import Segmenter
from segcore.types import Images, Prediction

__all__ = ["SDN"]

Channels = Sequence[int]
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
        deconvolution: int = 4,  # its kernel; one port has 2
        compress_last: bool = True,  # one port classifies the last unit's joined layers
        supervise_bottom: bool = True,  # one port leaves the coarsest maps out
        sum_scores: bool = True,  # over units, stride by stride; or each alone
        dropout: float = 0.0,  # one port has 0.2 behind each layer
        auxiliary: bool = True,
    ) -> None:
        super().__init__()
        self.backbone, self.sum_scores = backbone, sum_scores
        # Coarsest first from here on.
        self.taken = tuple(map(backbone.index_of, sorted(set(backbone.strides), reverse=True)))
        bottom, *finer = (backbone.channels[i] for i in self.taken)
        layer = partial(norm_relu_conv, outputs=layer_width, dropout=dropout)
        step = partial(Step, layer=layer, kernel=deconvolution)
        self.enter = conv3x3(bottom, coarse_width) if compress_bottom else nn.Identity()
        self.laterals = nn.ModuleList(map(layer if reduce_laterals else nn.Identity, finer))
        laterals = [layer_width if reduce_laterals else each for each in finer]
        widths = [coarse_width] * (len(finer) - 1) + [middle_width, fine_width]
        maps = [coarse_width if compress_bottom else bottom]
        self.units, outputs = nn.ModuleList(), []
        for number in range(1, stacks + 1):
            widths[-1] = fine_width if compress_last or number < stacks else 0
            self.units.append(unit := Unit(maps, laterals, widths, bottom_layers, step))
            outputs.append(maps := unit.outputs)
        levels = [-1, *(range(0 if supervise_bottom else 1, len(finer)) if auxiliary else ())]
        heads = [nn.ModuleList(conv3x3(each[i], num_classes) for each in outputs) for i in levels]
        self.classify, self.auxiliary = heads[0], nn.ModuleList(heads[1:])

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


class Unit(nn.Module):
    """An encoder from the finest map of the unit before, if there is one, and a decoder. Links are
    that unit's maps on the way down, the backbone's on the way up; all are coarsest first."""

    def __init__(
        self, before: Channels, laterals: Channels, widths: Channels, bottom_layers: int, step: Any
    ) -> None:
        super().__init__()
        *coarser, x = before
        self.encoder, self.decoder = nn.ModuleList(), nn.ModuleList()
        for level in reversed(range(len(coarser))):
            layers = 2 if level else bottom_layers
            self.encoder.append(step(x, coarser[level], widths[level], layers, up=False))
            x = widths[level]
        self.outputs = [x]
        for link, width in zip(laterals, widths[1:], strict=True):
            self.decoder.append(last := step(self.outputs[-1], link, width, up=True))
            self.outputs.append(last.outputs)

    def forward(self, before: list[Tensor], laterals: list[Tensor]) -> list[Tensor]:
        *coarser, x = before
        for step, link in zip(self.encoder, reversed(coarser), strict=True):
            x = step(x, link)
        maps = [x]
        for step, link in zip(self.decoder, laterals, strict=True):
            maps.append(step(maps[-1], link))
        return maps


class Step(nn.Module):
    """Down a stride by pooling or up by a deconvolution. What comes there joins the link, each
    layer joins what it was given, and all is compressed to ``width`` (0: left as it is)."""

    def __init__(
        self, x: int, link: int, width: int, layers: int = 2, *, up: bool, layer: Any, kernel: int
    ) -> None:
        super().__init__()
        joined = [x + link + i * layer.keywords["outputs"] for i in range(layers + 1)]
        self.outputs = width or joined[-1]
        self.compress = conv3x3(joined[-1], width) if width else nn.Identity()
        self.move = nn.MaxPool2d(2, ceil_mode=True)
        if up:  # to twice the size and one more, from which the size of any finer map is cut
            self.move = nn.ConvTranspose2d(x, x, kernel, 2, (kernel - 1) // 2, output_padding=1)
        self.layers = nn.ModuleList(map(layer, joined[:-1]))

    def forward(self, x: Float[Tensor, "b _ _ _"], link: Float[Tensor, "b _ h w"]) -> Tensor:
        x = torch.cat([self.move(x)[..., : link.shape[-2], : link.shape[-1]], link], dim=1)
        for layer in self.layers:
            x = torch.cat([x, layer(x)], dim=1)
        return self.compress(x)


def norm_relu_conv(inputs: int, outputs: int, dropout: float) -> nn.Sequential:
    conv = conv3x3(inputs, outputs)
    return nn.Sequential(nn.BatchNorm2d(inputs), nn.ReLU(inplace=True), conv, nn.Dropout(dropout))
