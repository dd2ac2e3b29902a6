"""All features at the finest one's stride, joined (HRNetV2; Sun et al., 2019, arXiv:1904.04514).

This is what heads on HRNet read: its branches are parallel, and none alone has it all.
"""

import torch
from torch import Tensor

from segcore.backbones.backbone import Backbone
from segcore.layers import resize
from segcore.types import Images


class ConcatPyramid(Backbone):
    """Gives the joined map twice, since a method that reads two features (an auxiliary head,
    OCRNet's regions) reads the joined map for both in every published form on HRNet."""

    def __init__(self, body: Backbone, /) -> None:
        super().__init__()
        self.body = body
        self.channels = (sum(body.channels),) * 2
        self.strides = (body.strides[0],) * 2

    @property
    def coarsest_stride(self) -> int:
        return self.body.coarsest_stride

    def forward(self, images: Images) -> list[Tensor]:
        finest, *coarser = self.body(images)
        size = finest.shape[-2:]
        joined = torch.cat([finest, *(resize(each, size) for each in coarser)], dim=1)
        return [joined, joined]
