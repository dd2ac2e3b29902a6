"""FCN (Long, Shelhamer & Darrell, 2015, arXiv:1411.4038), on a dilated backbone.

A classification network whose last layers are convolutions scores every pixel at once. The form
is MMSegmentation's: convolutions on the last feature, joined with that feature once more.
"""

from functools import partial

import torch
from torch import nn

from segcore.backbones import Backbone
from segcore.errors import InputError
from segcore.layers import (
    atrous_classifier,
    auxiliary_head,
    classifier,
    conv_norm_relu,
    kaiming_conv,
)
from segcore.segmenter import Segmenter
from segcore.types import Images, Prediction

__all__ = ["FCN"]


class FCN(Segmenter):
    """Other published forms: on HRNet ``num_convs=1, kernel=1, width=<all channels>,
    concat_input=False, dropout=0.0, auxiliary=False``; PyTorch-Encoding ``num_convs=1,
    concat_input=False``, and openseg that with ``bias=True, classifier_bias=False,
    auxiliary_width=512``; FCN-D6 ``dilation=6`` on a backbone of stride 16.

    ``classifier_convs`` of 1 or 2 is the plain head of Wide-ResNet-38 (arXiv:1611.10080) instead:
    so many dilated convolutions without BatchNorm, ``width`` between two. Nothing else joins in,
    no auxiliary head either.
    """

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
        bias: bool = False,
        classifier_bias: bool = True,
        dropout: float = 0.1,
        classifier_convs: int = 0,
        auxiliary: bool = True,
        auxiliary_width: int = 256,
    ) -> None:
        if num_convs < 1:
            raise InputError(f"method fcn: num_convs must be at least 1, not {num_convs}")
        super().__init__()
        last = backbone.channels[-1]
        self.backbone, self.join = backbone, None
        if classifier_convs:
            self.convs, self.classify = plain_head(last, num_classes, width, classifier_convs)
        else:
            block = partial(conv_norm_relu, outputs=width, kernel=kernel, bias=bias)
            inputs = [last] + [width] * (num_convs - 1)
            self.convs = nn.Sequential(*(block(each, dilation=dilation) for each in inputs))
            self.join = block(last + width) if concat_input else None
            self.classify = classifier(width, num_classes, dropout=dropout, bias=classifier_bias)
        if auxiliary and not classifier_convs:
            self.auxiliary = auxiliary_head(
                backbone.channels[-2],
                num_classes,
                width=auxiliary_width,
                dilation=dilation,
                dropout=dropout,
                bias=bias,
                classifier_bias=classifier_bias,
            )

    def forward(self, images: Images) -> Prediction:
        features = self.backbone(images)
        x = self.convs(features[-1])
        if self.join:
            x = self.join(torch.cat([features[-1], x], dim=1))
        logits = self.classify(x)
        return self.prediction(logits, features)


def plain_head(
    inputs: int, num_classes: int, width: int, num_convs: int
) -> tuple[nn.Sequential, nn.Conv2d]:
    """What comes before the classifier of Wide-ResNet-38, and the classifier: 3x3 convolutions
    with bias, spread by 12 pixels (Wu et al., 2016, arXiv:1611.10080)."""
    if num_convs == 1:
        return nn.Sequential(), atrous_classifier(inputs, num_classes, 12)
    if num_convs != 2:
        raise InputError(f"method fcn: classifier_convs must be 0, 1 or 2, not {num_convs}")
    conv = kaiming_conv(inputs, width, 3, dilation=12, bias=True)
    convs = nn.Sequential(conv, nn.ReLU(inplace=True))
    return convs, atrous_classifier(width, num_classes, 12)
