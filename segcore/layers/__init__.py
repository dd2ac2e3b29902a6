"""Layers that two methods or more share; what one method alone uses stands in its own file."""

from segcore.layers.convolution import conv_norm_relu
from segcore.layers.heads import auxiliary_head, classifier
from segcore.layers.pooling import PyramidPooling, adaptive_average_pool
from segcore.layers.resizing import resize

__all__ = [
    "PyramidPooling",
    "adaptive_average_pool",
    "auxiliary_head",
    "classifier",
    "conv_norm_relu",
    "resize",
]
