"""Softmax attention whose memory grows with the number of tokens, not with its square."""

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

_BLOCK = 1 << 23
"""Similarities held at once on a CPU: 32 MiB in float32, near what its caches make fastest."""


def attend(
    query: Float[Tensor, "b d n"],
    key: Float[Tensor, "b d m"],
    value: Float[Tensor, "b e m"],
    *,
    scale: float | None = None,
) -> Float[Tensor, "b e n"]:
    """For each of n queries the mean of m values, weighted by softmax(scale · queryᵀ key).

    ``scale`` is 1/√d unless given (Vaswani et al., 2017, arXiv:1706.03762, eq. 1). Tokens are
    last, as ``map.flatten(2)`` has them. No n by m matrix is held, forward or backward: a GPU
    has fused kernels for that; on a CPU, where torch's need d = e and are slower than matrix
    products, queries are taken block by block and the backward pass computes each again.
    """
    scale = query.shape[1] ** -0.5 if scale is None else scale
    if query.is_cpu and not torch.compiler.is_compiling():
        return _BlockwiseAttention.apply(query, key, value, scale)
    tokens = (each.transpose(1, 2).unsqueeze(1) for each in (query, key, value))
    mixed = F.scaled_dot_product_attention(*tokens, scale=scale)
    return mixed.squeeze(1).transpose(1, 2)


class _BlockwiseAttention(torch.autograd.Function):
    """Whole rows of the attention map at a time, so that each block is an ordinary softmax; the
    backward pass has their weights computed again instead of kept (Dao et al., 2022,
    arXiv:2205.14135, section 3.1)."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
        ctx.save_for_backward(query, key, value)
        ctx.scale = scale
        mixed = value.new_empty(value.shape[0], value.shape[1], query.shape[2])
        for rows in _blocks(query, key):
            weights = _weights(query[:, :, rows], key, scale)
            mixed[:, :, rows] = torch.bmm(value, weights.mT)
        return mixed

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        query, key, value = ctx.saved_tensors
        grad_query = torch.empty_like(query)
        grad_key = torch.zeros_like(key)
        grad_value = torch.zeros_like(value)
        for rows in _blocks(query, key):
            weights = _weights(query[:, :, rows], key, ctx.scale)
            grad_value += torch.bmm(grad[:, :, rows], weights)
            grad_weights = torch.bmm(grad[:, :, rows].mT, value)
            mean = (grad_weights * weights).sum(dim=-1, keepdim=True)
            grad_similarity = grad_weights.sub_(mean).mul_(weights).mul_(ctx.scale)
            grad_query[:, :, rows] = torch.bmm(key, grad_similarity.mT)
            grad_key += torch.bmm(query[:, :, rows], grad_similarity)
        return grad_query, grad_key, grad_value, None


def _weights(query: Tensor, key: Tensor, scale: float) -> Tensor:
    return torch.bmm(query.mT * scale, key).softmax(dim=-1)


def _blocks(query: Tensor, key: Tensor) -> Iterator[slice]:
    step = max(1, _BLOCK // (key.shape[0] * key.shape[2]))
    yield from (slice(start, start + step) for start in range(0, query.shape[2], step))
