"""Layers that two methods or more share; what one method alone uses stands in its own file."""

from segcore.layers.atrous import AtrousPyramid, ImagePooling, atrous_classifier
from segcore.layers.attention import attend
from segcore.layers.convolution import (
    conv_norm_relu,
    kaiming_conv,
    separable_conv_norm_relu,
    zero_conv,
)
from segcore.layers.heads import ContextHead, auxiliary_head, classifier
from segcore.layers.pooling import PyramidPooling, adaptive_average_pool
from segcore.layers.precision import sum_over_pixels, without_autocast
from segcore.layers.resizing import resize
from segcore.layers.self_attention import JoinedContext, SelfAttention
from segcore.layers.windows import attend_grid, attend_windows

__all__ = [
    "AtrousPyramid",
    "ContextHead",
    "ImagePooling",
    "JoinedContext",
    "PyramidPooling",
    "SelfAttention",
    "adaptive_average_pool",
    "atrous_classifier",
    "attend",
    "attend_grid",
    "attend_windows",
    "auxiliary_head",
    "classifier",
    "conv_norm_relu",
    "kaiming_conv",
    "resize",
    "separable_conv_norm_relu",
    "sum_over_pixels",
    "without_autocast",
    "zero_conv",
]
