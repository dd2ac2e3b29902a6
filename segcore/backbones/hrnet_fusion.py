"""HRNet's exchange between branches, mended for segmentation (arXiv:1904.04514, section 3.1).

timm enlarges coarser branches by a fixed factor and to the nearest pixel. The published
segmentation networks enlarge bilinearly to the size of the finer branch; the factor also fails at
every size that is no multiple of 32. No parameter tells the difference.
"""

from typing import Any

from timm.models.hrnet import HighResolutionModule
from torch import Tensor, nn

from segcore.layers import resize


class BilinearFusion(nn.Module):
    """Stands in for timm's ``HighResolutionModule``: the same layers under the same names."""

    def __init__(self, module: HighResolutionModule) -> None:
        super().__init__()
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
            gathered = gathered + (resize(each, outputs[i].shape[-2:]) if j > i else each)
        return gathered


def replace_fusion(body: nn.Module) -> None:
    """Puts ``BilinearFusion`` in the place of each of timm's modules that exchange."""
    for parent in list(body.modules()):
        for name, child in parent.named_children():
            if isinstance(child, HighResolutionModule) and child.num_branches > 1:
                setattr(parent, name, BilinearFusion(child))
