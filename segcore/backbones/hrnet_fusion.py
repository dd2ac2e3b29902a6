"""HRNet's exchange between branches, mended for segmentation (arXiv:1904.04514, section 3.1).

timm enlarges coarser branches by a fixed factor and to the nearest pixel. The published
segmentation networks enlarge bilinearly to the size of the finer branch; the factor also fails at
every size that is no multiple of 32. No parameter tells the difference.
"""

from typing import Any

import torch
from timm.models.hrnet import HighResolutionModule
from torch import Tensor, nn

from segcore.layers import resize


class BilinearFusion(nn.Module):
    """Stands in for timm's ``HighResolutionModule``: the same layers under the same names.

    ``enlarge_by_factor`` is MMSegmentation's form, which differs where a map has an odd size:
    coarser branches are enlarged by the ratio of strides, then resized to the finer branch.
    """

    def __init__(self, module: HighResolutionModule, *, enlarge_by_factor: bool) -> None:
        super().__init__()
        self.enlarge_by_factor = enlarge_by_factor
        rows: Any = module.fuse_layers
        self.branches = module.branches
        # Of a layer from a coarser branch: convolution and BatchNorm, without the upsampling.
        self.fuse_layers = nn.ModuleList(
            nn.ModuleList(layer[:2] if j > i else layer for j, layer in enumerate(row))
            for i, row in enumerate(rows)
        )
        self.fuse_act = module.fuse_act

    def forward(self, inputs: list[Tensor]) -> list[Tensor]:
        outputs = [branch(x) for branch, x in zip(self.branches, inputs, strict=True)]
        return [self.fuse_act(self._gather(i, outputs)) for i in range(len(self.fuse_layers))]

    def _gather(self, i: int, outputs: list[Tensor]) -> Tensor:
        layers: Any = self.fuse_layers[i]
        gathered = layers[0](outputs[0])
        for j in range(1, len(outputs)):
            each = layers[j](outputs[j])
            if j > i:
                if self.enlarge_by_factor:
                    each = resize(each, torch.Size(length << (j - i) for length in each.shape[-2:]))
                each = resize(each, outputs[i].shape[-2:])
            gathered = gathered + each
        return gathered


def replace_fusion(body: nn.Module, *, enlarge_by_factor: bool = False) -> None:
    """Puts ``BilinearFusion`` in the place of each of timm's modules that exchange."""
    for parent in list(body.modules()):
        for name, child in parent.named_children():
            if isinstance(child, HighResolutionModule) and child.num_branches > 1:
                fusion = BilinearFusion(child, enlarge_by_factor=enlarge_by_factor)
                setattr(parent, name, fusion)
