"""DeepLabV2 (Chen, Papandreou, Kokkinos, Murphy & Yuille, 2016, arXiv:1606.00915).

Objects come in all sizes, so the last feature is classified several times over, each time with
another field of view: parallel convolutions whose kernels are spread by different dilations. The
sum of their scores is the prediction.
"""

from collections.abc import Sequence

import torch
from torch import nn

from segcore.backbones import Backbone
from segcore.layers import atrous_classifier
from segcore.segmenter import Segmenter
from segcore.types import Images, Prediction

__all__ = ["DeepLabV2"]


class DeepLabV2(Segmenter):
    """The paper's ASPP-L on a ResNet; its ASPP-S has ``dilations=(2, 4, 8, 12)``, its form with
    one large field of view (LargeFOV) a single dilation of 12."""

    def __init__(
        self, backbone: Backbone, num_classes: int, *, dilations: Sequence[int] = (6, 12, 18, 24)
    ) -> None:
        super().__init__()
        last = backbone.channels[-1]
        self.backbone = backbone
        self.classifiers = nn.ModuleList(
            atrous_classifier(last, num_classes, dilation) for dilation in dilations
        )

    def forward(self, images: Images) -> Prediction:
        last = self.backbone(images)[-1]
        scores = [classify(last) for classify in self.classifiers]
        return Prediction(torch.stack(scores).sum(dim=0))
