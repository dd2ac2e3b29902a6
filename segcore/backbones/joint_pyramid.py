"""Joint pyramid upsampling (JPU; Wu et al., 2019, arXiv:1903.11816).

A dilated network computes its last stages on a large map. JPU leaves the network as it was and
approximates that map from its last three features, which costs a third of the time.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from segcore.backbones.backbone import Backbone
from segcore.errors import InputError
from segcore.layers import conv_norm_relu, resize, separable_conv_norm_relu
from segcore.types import Images

_STRIDES = 8, 16, 32


class JointPyramid(Backbone):
    """Puts the joint map, of stride 8, in the place of the backbone's last feature (section 3.3).

    The other features stay, so that auxiliary heads read the plain last but one. The three
    features are joined fine to coarse, as in MMSegmentation (FastFCN: coarse to fine). Raises
    InputError on a backbone that does not end at stride 32.
    """

    def __init__(
        self, body: Backbone, /, *, width: int = 512, dilations: Sequence[int] = (1, 2, 4, 8)
    ) -> None:
        super().__init__()
        if body.strides[-1] != _STRIDES[-1] or not set(_STRIDES) <= set(body.strides):
            raise InputError(
                "pyramid 'joint' needs a backbone with features at strides 8, 16 and 32; these "
                f"have {', '.join(map(str, body.strides))}; leave output_stride out or choose "
                "another backbone"
            )
        self.body = body
        self.joined = tuple(map(body.index_of, _STRIDES))
        self.enter = nn.ModuleList(
            conv_norm_relu(body.channels[index], width, 3) for index in self.joined
        )
        self.branches = nn.ModuleList(
            separable_conv_norm_relu(3 * width, width, dilation=each, inner_relu=False)
            for each in dilations
        )
        self.channels = (*body.channels[:-1], width * len(self.branches))
        self.strides = (*body.strides[:-1], _STRIDES[0])

    @property
    def coarsest_stride(self) -> int:
        return self.body.coarsest_stride

    def forward(self, images: Images) -> list[Tensor]:
        features = self.body(images)
        fine, *coarser = (
            enter(features[index]) for enter, index in zip(self.enter, self.joined, strict=True)
        )
        size = fine.shape[-2:]
        joined = torch.cat([fine, *(resize(each, size) for each in coarser)], dim=1)
        return [*features[:-1], torch.cat([branch(joined) for branch in self.branches], dim=1)]
