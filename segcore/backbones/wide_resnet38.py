"""Wide-ResNet-38 (Wu, Shen & van den Hengel, 2016, arXiv:1611.10080), known as ademxapp.

A residual network behaves like an ensemble of shallower ones, and beyond some depth its paths
are no longer trained end to end. So this one is wide instead of deep: 38 layers, up to 4096
channels. BatchNorm and ReLU come before each convolution, and nothing comes after the sums.
"""

import math
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple

from jaxtyping import Float
from torch import Tensor, nn

from segcore.backbones.backbone import Backbone
from segcore.errors import InputError
from segcore.types import Images

POOLED_STAGES: dict[str, tuple[int, ...]] = {
    "wide_resnet38_a": (2, 3, 4, 5, 6),
    "wide_resnet38_a1": (),
    "wide_resnet38_a2": (2, 3),
}
"""The forms: which stages begin with max-pooling; in others the first convolution has a stride."""

_STAGES = (  # from stage 2 on: blocks, and the widths of their convolutions per first width
    (3, (2, 2)),
    (3, (4, 4)),
    (6, (8, 8)),
    (3, (8, 16)),
    (1, (8, 16, 32)),
    (1, (16, 32, 64)),
)
_LAST_HALVING = 6
_FINEST = 4
_OUTPUT_STRIDES = 8, 16, 32
_EPSILON = 1.001e-5


class WideResNet38(Backbone):
    """Features are the sums of stages 3 to 6, then stage 7 with BatchNorm and ReLU, as in openseg.

    ``name`` is one of ``POOLED_STAGES``; ``width`` the first convolution's, the others are in
    proportion. ``dropout`` is before the last convolution of stages 6 and 7. Defaults are the
    paper's for segmentation; openseg has no dropout and dilates stage 5 as a whole
    (``contract_dilation=False``). Raises InputError on an output stride other than 8, 16, 32.
    """

    def __init__(
        self,
        name: str,
        /,
        *,
        output_stride: int = 32,
        width: int = 64,
        dropout: Sequence[float] = (0.3, 0.5),
        contract_dilation: bool = True,
    ) -> None:
        if output_stride not in _OUTPUT_STRIDES:
            raise InputError(
                f"backbone {name} cannot be built at output stride {output_stride}; "
                f"it can at {', '.join(map(str, _OUTPUT_STRIDES))}"
            )
        if not isinstance(dropout, list | tuple) or len(dropout) != 2:
            raise InputError(f"dropout must be 2 shares, of stages 6 and 7, not {dropout!r}")
        super().__init__()
        drops = (*[0.0] * (len(_STAGES) - 2), *dropout)
        plan = list(_plan(POOLED_STAGES[name], output_stride, contract_dilation))
        outputs = [width, *(width * widths[-1] for _, widths in _STAGES)]
        self.stem = nn.Conv2d(3, width, 3, padding=1, bias=False)
        self.stages = nn.ModuleList(
            _stage(inputs, (blocks, [width * each for each in widths]), sampling, drop)
            for inputs, (blocks, widths), sampling, drop in zip(
                outputs[:-1], _STAGES, plan, drops, strict=True
            )
        )
        self.finish = _norm_relu(outputs[-1])
        fine = sum(each.stride < _FINEST for each in plan)
        self.channels = tuple(outputs[1 + fine :])
        self.strides = tuple(each.stride for each in plan[fine:])
        for each in self.modules():
            if isinstance(each, nn.Conv2d):
                nn.init.kaiming_normal_(each.weight, nonlinearity="relu")

    def forward(self, images: Images) -> list[Tensor]:
        x = self.stem(images)
        sums: list[Tensor] = []
        for stage in self.stages:
            x = stage(x)
            sums.append(x)
        return [*sums[-len(self.channels) : -1], self.finish(x)]


class _Sampling(NamedTuple):
    """How a stage reads the map: its stride in the image's pixels, its own step, what takes that
    step, and the dilations of its first 3x3 (or of the pooling) and of all others."""

    stride: int
    step: int
    pooled: bool
    before: int
    entering: int
    dilation: int


def _plan(pooled: Sequence[int], output_stride: int, contract: bool) -> Iterator[_Sampling]:
    """What loses its step of 2 looks as far as before, all after it twice as far."""
    stride, before = 1, 1
    for number in range(2, 2 + len(_STAGES)):
        halves = number <= _LAST_HALVING
        step = 2 if halves and stride < output_stride else 1
        dilation = 2 * before if halves and step == 1 else before
        stride *= step
        entering = before if contract and number not in pooled else dilation
        yield _Sampling(stride, step, number in pooled, before, entering, dilation)
        before = dilation


def _stage(
    inputs: int, blocks: tuple[int, list[int]], sampling: _Sampling, dropout: float
) -> nn.Sequential:
    """``blocks`` are their number and the widths of their convolutions."""
    number, widths = blocks
    step, dilation = sampling.step, sampling.dilation
    pool: nn.Module = nn.Identity()
    if sampling.pooled:
        # Padded apart: torch's own padding is at most half the kernel, whatever the dilation.
        border = nn.ConstantPad2d(sampling.before, -math.inf)
        pool = nn.Sequential(border, nn.MaxPool2d(3, step, dilation=sampling.before))
        step = 1
    first = PreactivationBlock(
        inputs, widths, step=step, dilations=(sampling.entering, dilation), dropout=dropout
    )
    others = [
        PreactivationBlock(
            widths[-1], widths, step=1, dilations=(dilation, dilation), dropout=dropout
        )
        for _ in range(number - 1)
    ]
    return nn.Sequential(pool, first, *others)


class PreactivationBlock(nn.Module):
    """BatchNorm and ReLU, then two 3x3 convolutions, or a 3x3 between two of 1x1 (section 4.1).

    Where the number of channels changes the shortcut is a 1x1 convolution of the activated input,
    else the input as it is. ``dilations`` are of the first 3x3 and of the second, or only one.
    """

    def __init__(
        self,
        inputs: int,
        widths: Sequence[int],
        *,
        step: int,
        dilations: tuple[int, int],
        dropout: float,
    ) -> None:
        super().__init__()
        pyramidal = len(widths) == 3
        kernels = (1, 3, 1) if pyramidal else (3, 3)
        reaches = (1, dilations[1], 1) if pyramidal else dilations
        self.activate = _norm_relu(inputs)
        self.shortcut = None
        if inputs != widths[-1]:
            self.shortcut = nn.Conv2d(inputs, widths[-1], 1, step, bias=False)
        layers = list[nn.Module]()
        for index, (before, after) in enumerate(pairwise([inputs, *widths])):
            if index:
                layers.append(_norm_relu(before))
            if index == len(widths) - 1:
                layers.append(nn.Dropout(dropout) if dropout else nn.Identity())
            layers.append(
                _conv(before, after, kernels[index], 1 if index else step, reaches[index])
            )
        self.convs = nn.Sequential(*layers)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b cc hh ww"]:
        activated = self.activate(x)
        shortcut = self.shortcut(activated) if self.shortcut else x
        return shortcut + self.convs(activated)


def _conv(inputs: int, outputs: int, kernel: int, step: int, dilation: int) -> nn.Conv2d:
    padding = dilation * (kernel // 2)
    return nn.Conv2d(inputs, outputs, kernel, step, padding, dilation=dilation, bias=False)


def _norm_relu(channels: int) -> nn.Sequential:
    return nn.Sequential(nn.BatchNorm2d(channels, eps=_EPSILON), nn.ReLU(inplace=True))
