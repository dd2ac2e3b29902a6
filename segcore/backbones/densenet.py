"""DenseNet (Huang et al., 2017, arXiv:1608.06993) at a finer output stride, which timm has not."""

from typing import Any

from torch import nn

from segcore.errors import InputError

_STRIDES = {2: 8, 3: 16, 4: 32}
"""Those of the dense blocks whose transition before them may lose its pooling."""


def dilate_densenet(body: Any, output_stride: int) -> None:
    """Removes the pooling of late transitions; the 3x3 convolutions after it look twice as far
    for each. The layers, their names and their weights stay.

    ``body`` is timm's, made with ``features_only``; what it declares of strides is set right.
    """
    if output_stride not in _STRIDES.values():
        raise InputError(f"a DenseNet has output stride 8, 16 or 32, not {output_stride}")
    for block, stride in _STRIDES.items():
        transition = f"features_transition{block - 1}"
        if stride > output_stride and transition in body:  # timm leaves out what nothing reads
            body[transition].pool = nn.Identity()
            _dilate(body[f"features_denseblock{block}"], stride // output_stride)
    for feature in body.feature_info.info:
        feature["reduction"] = min(feature["reduction"], output_stride)


def _dilate(block: nn.Module, dilation: int) -> None:
    for conv in block.modules():
        if isinstance(conv, nn.Conv2d) and conv.kernel_size == (3, 3):
            conv.dilation = conv.padding = dilation, dilation
