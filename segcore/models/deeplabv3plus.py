"""DeepLabV3+ (Chen, Zhu, Papandreou, Schroff & Adam, 2018, arXiv:1802.02611).

DeepLabV3 sees context at every scale but blurs the borders of objects, so a small decoder is put
behind it: what the pyramid saw is enlarged to stride 4 and joined to a fine feature there.
Separable convolutions in the pyramid and in the decoder make it cheaper than what it extends.
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
    resize,
    separable_conv_norm_relu,
)
from segcore.segmenter import Segmenter
from segcore.types import Images, Prediction

__all__ = ["DeepLabV3Plus"]


class DeepLabV3Plus(Segmenter):
    """``low_level_width`` is what the fine feature is reduced to, lest it outweigh the context.

    At stride 16 the dilations are ``(6, 12, 18)``. Other published forms: the paper ``width=256,
    projection_kernel=1``; MMSegmentation on ResNet-18 ``width=128, low_level_width=12,
    auxiliary_width=64``.
    """

    needed_strides = (4,)
    needed_features = 2

    def __init__(
        self,
        backbone: Backbone,
        num_classes: int,
        *,
        dilations: Sequence[int] = (12, 24, 36),
        width: int = 512,
        low_level_width: int = 48,
        projection_kernel: int = 3,
        dropout: float = 0.1,
        auxiliary: bool = True,
        auxiliary_width: int = 256,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.fine = backbone.index_of(4)
        last = backbone.channels[-1]
        self.pooling = ImagePooling(last, width)
        self.pyramid = AtrousPyramid(last, width, dilations, separable=True)
        self.project = conv_norm_relu(width + self.pyramid.outputs, width, projection_kernel)
        self.reduce = conv_norm_relu(backbone.channels[self.fine], low_level_width)
        self.decode = nn.Sequential(
            separable_conv_norm_relu(width + low_level_width, width),
            separable_conv_norm_relu(width, width),
        )
        self.classify = classifier(width, num_classes, dropout=dropout)
        if auxiliary:
            self.auxiliary = auxiliary_head(
                backbone.channels[-2], num_classes, width=auxiliary_width, dropout=dropout
            )

    def forward(self, images: Images) -> Prediction:
        features = self.backbone(images)
        fine, last = features[self.fine], features[-1]
        context = self.project(torch.cat([self.pooling(last), self.pyramid(last)], dim=1))
        context = resize(context, fine.shape[-2:])
        logits = self.classify(self.decode(torch.cat([context, self.reduce(fine)], dim=1)))
        return self.prediction(logits, features)
