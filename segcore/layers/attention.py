"""Softmax attention whose memory grows with the number of tokens, not with its square."""

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

_BLOCK = 1 << 22
"""Similarities held at once on a CPU: 16 MiB in float32, which its last cache takes beside the
products' operands. Four times fewer or twice as many measured slower."""


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
    Compiled or exported it is torch's operator everywhere: on a CPU that holds the matrix if
    d and e differ.
    """
    scale = query.shape[1] ** -0.5 if scale is None else scale
    if query.is_cpu and not torch.compiler.is_compiling():
        return _BlockwiseAttention.apply(query, key, value, scale).mT
    # Fused kernels take a token's channels side by side in memory only; torch would fall back
    # to the whole matrix without a word.
    query, key, value = (each.mT.contiguous().unsqueeze(1) for each in (query, key, value))
    return F.scaled_dot_product_attention(query, key, value, scale=scale).squeeze(1).mT


class _BlockwiseAttention(torch.autograd.Function):
    """Whole rows of the attention map at a time, so that each block is an ordinary softmax; the
    backward pass computes their weights again instead of keeping them (Dao et al., 2022,
    arXiv:2205.14135, section 3.1 and appendix B). The result is [b, n, e]."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
        mixed = value.new_empty(value.shape[0], query.shape[2], value.shape[1])
        for rows in _blocks(query, key):
            mixed[:, rows] = torch.bmm(_weights(query[:, :, rows], key, scale), value.mT)
        ctx.save_for_backward(query, key, value, mixed)
        ctx.scale = scale
        return mixed

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        (grad,) = grads
        query, key, value, mixed = ctx.saved_tensors
        # Many blocks add up here: bfloat16 would lose the small ones.
        precise = torch.promote_types(value.dtype, torch.float32)
        grad_query = torch.empty_like(query)
        grad_key = torch.zeros_like(key, dtype=precise)
        grad_value = torch.zeros_like(value, dtype=precise)
        means = (grad * mixed).sum(dim=-1, keepdim=True)
        for rows in _blocks(query, key):
            weights = _weights(query[:, :, rows], key, ctx.scale)
            grad_value += torch.bmm(grad[:, rows].mT, weights)
            grad_similarity = torch.bmm(grad[:, rows], value).sub_(means[:, rows]).mul_(weights)
            grad_query[:, :, rows] = torch.bmm(key, grad_similarity.mT)
            grad_key += torch.bmm(query[:, :, rows], grad_similarity)
            del weights, grad_similarity  # before the next block asks for memory
        grad_query, grad_key = grad_query * ctx.scale, grad_key * ctx.scale
        return grad_query, grad_key.to(key.dtype), grad_value.to(value.dtype), None


def _weights(query: Tensor, key: Tensor, scale: float) -> Tensor:
    return torch.bmm(query.mT * scale, key).softmax(dim=-1)


def _blocks(query: Tensor, key: Tensor) -> Iterator[slice]:
    step = max(1, _BLOCK // max(1, key.shape[0] * key.shape[2]))  # a window may be empty
    yield from (slice(start, start + step) for start in range(0, query.shape[2], step))
