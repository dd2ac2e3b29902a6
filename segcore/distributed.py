"""Several workers as one: rank, world size, sums over workers, synchronised BatchNorm.

All of it is trivial in a single process, so nothing that uses it needs two code paths.
"""

import torch
import torch.distributed as dist
from timm.layers.norm_act import convert_sync_batchnorm
from torch import Tensor, nn


def rank() -> int:
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    return dist.get_world_size() if dist.is_initialized() else 1


def total(value: Tensor) -> Tensor:
    """The sum over all workers, in place."""
    if world_size() > 1:
        dist.all_reduce(value)
    return value


class _AllSum(torch.autograd.Function):
    """An all-reduce that gradients pass through: the gradient of a sum is the sum of gradients."""

    @staticmethod
    def forward(ctx: object, value: Tensor) -> Tensor:
        return total(value.clone())

    @staticmethod
    def backward(ctx: object, *gradients: Tensor) -> Tensor:
        return total(gradients[0].clone())


def all_sum(value: Tensor) -> Tensor:
    """The sum over all workers, differentiable."""
    summed = _AllSum.apply(value)
    assert isinstance(summed, Tensor)
    return summed


class SyncBatchNorm(nn.BatchNorm2d):
    """BatchNorm over the batch of all workers, on any device.

    torch's own refuses CPU tensors, so tests could not check what GPUs do. Workers may hold
    different numbers of values. Running statistics are torch's: the variance is unbiased.
    ``follow`` is what timm's norm layers do after normalising (dropout, activation).
    """

    def __init__(self, norm: nn.BatchNorm2d) -> None:
        super().__init__(norm.num_features, norm.eps, norm.momentum, norm.affine)
        self.load_state_dict(norm.state_dict())
        self.follow = [m for m in (getattr(norm, "drop", None), getattr(norm, "act", None)) if m]
        self.train(norm.training)

    def forward(self, input: Tensor) -> Tensor:
        synchronised = self.training and world_size() > 1
        normal = self._normalise(input) if synchronised else super().forward(input)
        for module in self.follow:
            normal = module(normal)
        return normal

    def _normalise(self, input: Tensor) -> Tensor:
        count = input.new_tensor([float(input.numel() // input.shape[1])])
        sums = all_sum(torch.cat([input.sum((0, 2, 3)), count]))
        mean, count = sums[:-1] / sums[-1], sums[-1]
        centred = input - mean[None, :, None, None]
        variance = all_sum(centred.square().sum((0, 2, 3))) / count
        self._track(mean.detach(), variance.detach(), count.detach())
        scale = (variance + self.eps).rsqrt() * self.weight
        return centred * scale[None, :, None, None] + self.bias[None, :, None, None]

    @torch.no_grad()
    def _track(self, mean: Tensor, variance: Tensor, count: Tensor) -> None:
        if self.running_mean is None or self.running_var is None:
            return
        if self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)
        momentum = 0.1 if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean, momentum)
        self.running_var.lerp_(variance * count / (count - 1), momentum)


def synchronise_batchnorm(model: nn.Module) -> nn.Module:
    """Replaces every BatchNorm by one that sees all workers: torch's on GPUs, ours on CPU."""
    if next(model.parameters()).is_cuda:
        return convert_sync_batchnorm(model)
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, nn.BatchNorm2d):
                setattr(module, name, SyncBatchNorm(child))
    return model
