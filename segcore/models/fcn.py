"""FCN (Long, Shelhamer & Darrell, 2015, arXiv:1411.4038), on a dilated backbone.

A classification network whose last layers are convolutions scores every pixel at once. The form
is MMSegmentation's: convolutions on the last feature, joined with that feature once more.
"""

import torch
from torch import nn

from segcore.backbones import Backbone
from segcore.errors import InputError
from segcore.layers import auxiliary_head, classifier, conv_norm_relu
from segcore.segmenter import Segmenter
from segcore.types import Images, Prediction

__all__ = ["FCN"]


class FCN(Segmenter):
    """Other published forms: on HRNet ``num_convs=1, kernel=1, width=<all channels>,
    concat_input=False, dropout=0.0, auxiliary=False``; PyTorch-Encoding ``num_convs=1,
    concat_input=False``; FCN-D6 ``dilation=6`` on a backbone of stride 16."""

    def __init__(
        self,
        backbone: Backbone,
        num_classes: int,
        *,
        num_convs: int = 2,
        kernel: int = 3,
        dilation: int = 1,
        width: int = 512,
        concat_input: bool = True,
        dropout: float = 0.1,
        auxiliary: bool = True,
        auxiliary_width: int = 256,
    ) -> None:
        if num_convs < 1:
            raise InputError(f"method fcn: num_convs must be at least 1, not {num_convs}")
        super().__init__()
        last = backbone.channels[-1]
        inputs = [last] + [width] * (num_convs - 1)
        self.backbone = backbone
        self.convs = nn.Sequential(
            *(conv_norm_relu(each, width, kernel, dilation=dilation) for each in inputs)
        )
        self.join = conv_norm_relu(last + width, width, kernel) if concat_input else None
        self.classify = classifier(width, num_classes, dropout=dropout)
        self.auxiliary = None
        if auxiliary:
            self.auxiliary = auxiliary_head(
                backbone.channels[-2], num_classes, width=auxiliary_width, dropout=dropout
            )

    def forward(self, images: Images) -> Prediction:
        features = self.backbone(images)
        x = self.convs(features[-1])
        if self.join:
            x = self.join(torch.cat([features[-1], x], dim=1))
        logits = self.classify(x)
        if self.training and self.auxiliary:
            return Prediction(logits, auxiliary=(self.auxiliary(features[-2]),))
        return Prediction(logits)
