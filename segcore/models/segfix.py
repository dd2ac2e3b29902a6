"""SegFix (Yuan, Xie, Chen & Wang, 2020, arXiv:2007.04269): boundaries, and the way inside.

The network sees an image alone. One head says whether a pixel lies at a boundary, the other one
in which direction the inside of its object is; ``segcore.segfix`` corrects labels by it.
"""

import torch
from torch import nn

from segcore.backbones import Backbone
from segcore.errors import InputError
from segcore.layers import conv_norm_relu, kaiming_conv, resize
from segcore.segmenter import Segmenter
from segcore.types import Images, Prediction

__all__ = ["SegFix"]


class SegFix(Segmenter):
    """Class 0 is to stay, each other one a direction to move in.

    Both heads are enlarged to the image before they are joined, so that the most likely class is
    the published decision: a direction where boundary is more likely than not, then the best
    one. The published form reads all branches of HRNet: ``backbone_options: {pyramid: concat}``.
    """

    def __init__(self, backbone: Backbone, num_classes: int, *, width: int = 256) -> None:
        if num_classes < 2:
            raise InputError(f"method segfix needs at least one direction, not {num_classes - 1}")
        super().__init__()
        inputs = backbone.channels[-1]
        self.backbone = backbone
        self.boundary = nn.Sequential(conv_norm_relu(inputs, width), kaiming_conv(width, 2))
        self.direction = nn.Sequential(
            conv_norm_relu(inputs, width), kaiming_conv(width, num_classes - 1)
        )

    def forward(self, images: Images) -> Prediction:
        feature = self.backbone(images)[-1]
        size = images.shape[-2:]
        boundary = resize(self.boundary(feature).float(), size)
        direction = resize(self.direction(feature).float(), size)
        stay = boundary[:, :1] - boundary[:, 1:]
        # The best direction scores 0: any direction wins where staying scores less.
        best = direction.amax(dim=1, keepdim=True)
        return Prediction(torch.cat([stay, direction - best], dim=1))
