"""Several workers as one: rank, world size, sums over workers, synchronised BatchNorm.

All of it is trivial in a single process, so nothing that uses it needs two code paths.
"""

from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

T = TypeVar("T")


def rank() -> int:
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    return dist.get_world_size() if dist.is_initialized() else 1


def total(value: Tensor) -> Tensor:
    """The sum over all workers, in place."""
    if world_size() > 1:
        dist.all_reduce(value)
    return value


def as_rank_0(value: T) -> T:
    """What rank 0 gives; every worker must ask."""
    box = [value]
    if world_size() > 1:
        dist.broadcast_object_list(box, 0)
    return box[0]


def gathered(values: list[T]) -> list[T]:
    """What all workers give, in the order of their ranks; every worker must ask."""
    if world_size() == 1:
        return values
    lists: list[list[T]] = [[] for _ in range(world_size())]
    dist.all_gather_object(lists, values)
    return [value for each in lists for value in each]


def share_buffers(model: nn.Module) -> None:
    """Gives every worker the buffers of rank 0, such as BatchNorm's running statistics."""
    if world_size() > 1:
        for buffer in model.buffers():
            dist.broadcast(buffer, 0)


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


class SyncBatchNorm(_BatchNorm):
    """BatchNorm over the batch of all workers, on any device.

    torch's own refuses CPU tensors, so tests could not check what GPUs do. Workers may hold
    different numbers of values. Statistics are float32 or better; running statistics are torch's:
    the variance is unbiased. It takes over the parameters and buffers of ``norm``, and what
    timm's norm layers do after normalising (``drop``, ``act``), under the same names.
    Raises ValueError where all workers together hold one value per channel, as torch does.
    """

    def __init__(self, norm: _BatchNorm) -> None:
        super().__init__(
            norm.num_features, norm.eps, norm.momentum, norm.affine, norm.track_running_stats
        )
        # The same tensors, not copies: an optimizer or another module may hold them already.
        self._parameters.update(norm._parameters)
        self._buffers.update(norm._buffers)
        self.drop = getattr(norm, "drop", nn.Identity())
        self.act = getattr(norm, "act", nn.Identity())
        self.training = norm.training

    def _check_input_dim(self, input: Tensor) -> None:
        """Any number of axes may follow the channels."""

    def forward(self, input: Tensor) -> Tensor:
        synchronised = self.training and world_size() > 1
        normal = self._normalise(input) if synchronised else super().forward(input)
        return self.act(self.drop(normal))

    def _normalise(self, input: Tensor) -> Tensor:
        # bfloat16 counts to 256 only; its sums are worse.
        values = input.to(torch.promote_types(input.dtype, torch.float32))
        axes = [axis for axis in range(values.ndim) if axis != 1]
        channelwise = [1, -1] + [1] * (values.ndim - 2)
        count = values.new_tensor([values.numel() / values.shape[1]])
        sums = all_sum(torch.cat([values.sum(axes), count]))
        mean, count = sums[:-1] / sums[-1], sums[-1].detach()
        if count <= 1:
            raise ValueError("Expected more than 1 value per channel when training, over workers")
        centred = values - mean.view(channelwise)
        variance = all_sum(centred.square().sum(axes)) / count
        self._track(mean.detach(), variance.detach() * count / (count - 1))
        normal = centred * (variance + self.eps).rsqrt().view(channelwise)
        if self.affine:
            normal = normal * self.weight.view(channelwise) + self.bias.view(channelwise)
        return normal.to(input.dtype)

    @torch.no_grad()
    def _track(self, mean: Tensor, unbiased_variance: Tensor) -> None:
        if self.running_mean is None or self.running_var is None:
            return
        assert self.num_batches_tracked is not None
        self.num_batches_tracked.add_(1)
        # Without a momentum torch keeps the mean over all batches so far.
        share = 1 / int(self.num_batches_tracked) if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean, share)
        self.running_var.lerp_(unbiased_variance, share)


def synchronise_batchnorm(model: nn.Module) -> nn.Module:
    """Replaces every BatchNorm by one that sees all workers: torch's on GPUs, ours elsewhere.

    Parameters stay the same objects; the model itself is replaced where it is a BatchNorm.
    """
    if next(model.parameters()).is_cuda:
        from timm.layers.norm_act import convert_sync_batchnorm  # not above: it takes a second

        return convert_sync_batchnorm(model)
    return _synchronised(model)


def _synchronised(module: nn.Module) -> nn.Module:
    if isinstance(module, _BatchNorm):
        return SyncBatchNorm(module)
    for name, child in list(module.named_children()):
        setattr(module, name, _synchronised(child))
    return module
