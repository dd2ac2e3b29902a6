"""PSPNet (Zhao et al., 2017, arXiv:1612.01105).

The same pixel means different things in different scenes, so each pixel is told about its
surroundings: averages over grids of 1, 2, 3 and 6 cells a side, from the whole image down,
are spread back over their cells and joined to the feature.
"""

from collections.abc import Sequence

from torch import nn

from segcore.backbones import Backbone
from segcore.layers import PyramidPooling, auxiliary_head, classifier, conv_norm_relu
from segcore.segmenter import Segmenter
from segcore.types import Images, Prediction

__all__ = ["PSPNet"]


class PSPNet(Segmenter):
    """``width`` is that of each grid and of the head; MMSegmentation takes 128, and 64 for the
    auxiliary head, on ResNet-18."""

    def __init__(
        self,
        backbone: Backbone,
        num_classes: int,
        *,
        grids: Sequence[int] = (1, 2, 3, 6),
        width: int = 512,
        dropout: float = 0.1,
        auxiliary: bool = True,
        auxiliary_width: int = 256,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.pyramid = PyramidPooling(backbone.channels[-1], width, grids)
        self.head = nn.Sequential(
            conv_norm_relu(self.pyramid.outputs, width, 3),
            classifier(width, num_classes, dropout=dropout),
        )
        if auxiliary:
            self.auxiliary = auxiliary_head(
                backbone.channels[-2], num_classes, width=auxiliary_width, dropout=dropout
            )

    def forward(self, images: Images) -> Prediction:
        features = self.backbone(images)
        logits = self.head(self.pyramid(features[-1]))
        return self.prediction(logits, features)
