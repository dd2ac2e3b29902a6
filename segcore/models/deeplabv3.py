"""DeepLabV3 (Chen, Papandreou, Schroff & Adam, 2017, arXiv:1706.05587).

To see objects at all their sizes, the last feature is looked at with several fields of view side
by side: a single pixel, three dilated convolutions, and the whole image. A projection joins what
they see.
"""

from collections.abc import Sequence

import torch
from torch import nn

from segcore.backbones import Backbone
from segcore.layers import (
    AtrousPyramid,
    ImagePooling,
    auxiliary_head,
    classifier,
    conv_norm_relu,
)
from segcore.segmenter import Segmenter
from segcore.types import Images, Prediction

__all__ = ["DeepLabV3"]


class DeepLabV3(Segmenter):
    """At stride 16 the dilations are half of those at 8: ``dilations=(6, 12, 18)``.

    Other published forms: the paper and PyTorch-Encoding ``width=256, projection_kernel=1``;
    torchvision the same with ``num_convs=1``, a 3x3 convolution after the projection;
    MMSegmentation on ResNet-18 ``width=128, auxiliary_width=64``.
    """

    def __init__(
        self,
        backbone: Backbone,
        num_classes: int,
        *,
        dilations: Sequence[int] = (12, 24, 36),
        width: int = 512,
        projection_kernel: int = 3,
        num_convs: int = 0,
        dropout: float = 0.1,
        auxiliary: bool = True,
        auxiliary_width: int = 256,
    ) -> None:
        super().__init__()
        last = backbone.channels[-1]
        self.backbone = backbone
        self.pooling = ImagePooling(last, width)
        self.pyramid = AtrousPyramid(last, width, dilations)
        self.project = conv_norm_relu(width + self.pyramid.outputs, width, projection_kernel)
        self.convs = nn.Sequential(*(conv_norm_relu(width, width, 3) for _ in range(num_convs)))
        self.classify = classifier(width, num_classes, dropout=dropout)
        if auxiliary:
            self.auxiliary = auxiliary_head(
                backbone.channels[-2], num_classes, width=auxiliary_width, dropout=dropout
            )

    def forward(self, images: Images) -> Prediction:
        features = self.backbone(images)
        last = features[-1]
        x = self.project(torch.cat([self.pooling(last), self.pyramid(last)], dim=1))
        logits = self.classify(self.convs(x))
        return self.prediction(logits, features)
