"""Layers that two methods or more share; what one method alone uses stands in its own file."""

from segcore.layers.atrous import AtrousPyramid, ImagePooling
from segcore.layers.attention import attend
from segcore.layers.convolution import conv_norm_relu, separable_conv_norm_relu
from segcore.layers.heads import ContextHead, auxiliary_head, classifier
from segcore.layers.pooling import PyramidPooling, adaptive_average_pool
from segcore.layers.resizing import resize

__all__ = [
    "AtrousPyramid",
    "ContextHead",
    "ImagePooling",
    "PyramidPooling",
    "adaptive_average_pool",
    "attend",
    "auxiliary_head",
    "classifier",
    "conv_norm_relu",
    "resize",
    "separable_conv_norm_relu",
]
