"""BatchNorm that stays as it is, as recipes for small batches from pre-trained weights want it."""

import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

__all__ = ["FrozenBatchNorm", "freeze_batchnorm"]


class FrozenBatchNorm(nn.Module):
    """Normalises by the running statistics in training, too; nothing in it is learnt.

    It takes over the parameters and buffers of ``norm``, and what timm's norm layers do after
    normalising (``drop``, ``act``), under the same names.
    """

    def __init__(self, norm: _BatchNorm) -> None:
        super().__init__()
        self.eps = norm.eps
        self._parameters.update(norm._parameters)
        self._buffers.update(norm._buffers)
        self.requires_grad_(False)
        self.drop = getattr(norm, "drop", nn.Identity())
        self.act = getattr(norm, "act", nn.Identity())
        self.training = norm.training

    def forward(self, input: Tensor) -> Tensor:
        mean, variance = self._buffers["running_mean"], self._buffers["running_var"]
        weight, bias = self._parameters["weight"], self._parameters["bias"]
        normal = F.batch_norm(input, mean, variance, weight, bias, eps=self.eps)
        return self.act(self.drop(normal))


def freeze_batchnorm(module: nn.Module) -> nn.Module:
    """Replaces every BatchNorm with running statistics; parameters stay the same objects."""
    if isinstance(module, _BatchNorm) and module.track_running_stats:
        return FrozenBatchNorm(module)
    for name, child in list(module.named_children()):
        setattr(module, name, freeze_batchnorm(child))
    return module
