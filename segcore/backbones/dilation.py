"""How far apart a network's 3x3 convolutions look, where timm has no keyword for it.

timm keeps what a stride did (Chen et al., 2017, arXiv:1706.05587, section 3.1): a convolution
that loses its stride of 2 looks as far as before, all after it twice as far. Published networks
differ from that form here and there; no parameter tells.
"""

from collections.abc import Sequence
from typing import Any

from timm.models.efficientnet import EfficientNetFeatures
from timm.models.mobilenetv3 import MobileNetV3Features
from timm.models.resnet import BasicBlock
from torch import nn

from segcore.backbones.options import check_rates, keywords_of
from segcore.errors import InputError

_STAGES = "layer1", "layer2", "layer3", "layer4"


def dilate_stages(
    body: nn.Module,
    /,
    *,
    dilations: Sequence[int] = (),
    multi_grid: Sequence[int] = (),
    contract_dilation: bool = True,
    dilate_first_conv_only: bool = False,
) -> None:
    """Sets the dilations of a residual network's four stages; strides stay.

    ``dilations`` are one per stage (empty: those that the output stride asks for).
    ``contract_dilation`` halves a stage's in the convolution that has, or had, its stride; OCNet
    and CCNet do not. ``multi_grid`` has a rate for each block of the last stage, times that
    stage's dilation (arXiv:1706.05587, section 3.2.1). ``dilate_first_conv_only`` leaves the
    second convolution of ResNet-18's blocks undilated, as MMSegmentation does.
    """
    stages: list[list[nn.Module]] = [list(getattr(body, name).children()) for name in _STAGES]
    if dilate_first_conv_only and not isinstance(stages[-1][0], BasicBlock):
        raise InputError(
            "dilate_first_conv_only is for blocks of two 3x3 convolutions, as in resnet18 and "
            "resnet34; leave it out"
        )
    if dilations:
        check_rates("dilations", dilations, len(stages), "stage")
    if multi_grid:
        check_rates("multi_grid", multi_grid, len(stages[-1]), "block of layer4")
    for index, blocks in enumerate(stages):
        dilation = dilations[index] if dilations else _dilation_of(blocks[-1])
        first = max(1, dilation // 2) if contract_dilation else dilation
        pairs = [(first, dilation)] + [(dilation, dilation)] * (len(blocks) - 1)
        if multi_grid and blocks is stages[-1]:
            pairs = [(rate * dilation, rate * dilation) for rate in multi_grid]
        for block, (entering, inner) in zip(blocks, pairs, strict=True):
            _dilate_block(block, entering, 1 if dilate_first_conv_only else inner)


def dilate_first_blocks(body: nn.Module, /, *, dilate_first_block_only: bool = True) -> None:
    """MMSegmentation's form of MobileNetV2: of a dilated stage only the first block is dilated."""
    if not dilate_first_block_only:
        return
    stages: Any = body.blocks
    for blocks in stages:
        dilation = _dilation_of(blocks[-1])
        for index, block in enumerate(blocks):
            for conv in _wide_convs(block):
                _dilate(conv, 1 if index else dilation)


_RESIDUAL = keywords_of(dilate_stages)
_STACKED = keywords_of(dilate_first_blocks)
DILATION_OPTIONS = (*_RESIDUAL, *_STACKED)
"""What this file adds to timm's keywords."""


def set_dilations(name: str, body: nn.Module, options: dict[str, Any]) -> None:
    """Applies those of ``DILATION_OPTIONS`` that were given for the backbone ``name``.

    Raises InputError where the network is of another kind than an option is for.
    """
    residual = all(isinstance(getattr(body, stage, None), nn.Sequential) for stage in _STAGES)
    stacked = isinstance(body, EfficientNetFeatures | MobileNetV3Features)
    for option in options:
        if not (residual if option in _RESIDUAL else stacked):
            kin = "ResNet" if option in _RESIDUAL else "MobileNetV2"
            raise InputError(
                f"backbone {name} has no option {option!r}, which is for {kin} and its kin; "
                "leave it out"
            )
    if options:
        (dilate_stages if residual else dilate_first_blocks)(body, **options)


def _dilate_block(block: nn.Module, entering: int, inner: int) -> None:
    """A block of two 3x3 convolutions in a row has its stride in the first."""
    for index, conv in enumerate(_wide_convs(block)):
        _dilate(conv, inner if index and isinstance(block, BasicBlock) else entering)


def _wide_convs(block: nn.Module) -> list[nn.Conv2d]:
    """The convolutions of more than one pixel, without the shortcut's."""
    return [
        each
        for name, each in block.named_modules()
        if isinstance(each, nn.Conv2d)
        and each.kernel_size[0] > 1
        and not name.startswith("downsample")
    ]


def _dilation_of(block: nn.Module) -> int:
    return max((conv.dilation[0] for conv in _wide_convs(block)), default=1)


def _dilate(conv: nn.Conv2d, dilation: int) -> None:
    conv.dilation = dilation, dilation
    if any(conv.padding):  # TensorFlow's kind of padding is worked out on each call
        rows, columns = conv.kernel_size
        conv.padding = dilation * (rows // 2), dilation * (columns // 2)
