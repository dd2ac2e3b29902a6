"""A map's pixels attend to one another, which to which is told; and what comes of it."""

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from segcore.layers.convolution import conv_norm_relu


class SelfAttention(nn.Module):
    """Queries, keys and values are projections of one map (Yuan et al., 2018, arXiv:1809.00916).

    ``attend`` takes the three maps and returns each pixel's mixture of values, ``project`` brings
    that to the width wanted. Queries and keys go through two convolutions each, with BatchNorm and
    ReLU, or through a single one for both if ``shared``; values go through a plain one.
    """

    def __init__(
        self,
        inputs: int,
        key_width: int,
        value_width: int,
        *,
        attend: Callable[[Tensor, Tensor, Tensor], Tensor],
        project: nn.Module,
        shared: bool = False,
        bias: bool = False,
        value_bias: bool = True,
    ) -> None:
        super().__init__()
        self.attend = attend
        num_convs = 1 if shared else 2
        self.key = _projection(inputs, key_width, num_convs, bias=bias)
        self.query = None if shared else _projection(inputs, key_width, num_convs, bias=bias)
        self.value = nn.Conv2d(inputs, value_width, 1, bias=value_bias)
        self.project = project

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b cc h w"]:
        key = self.key(x)
        query = self.query(x) if self.query else key
        return self.project(self.attend(query, key, self.value(x)))


def _projection(inputs: int, outputs: int, num_convs: int, *, bias: bool) -> nn.Sequential:
    each = [inputs] + [outputs] * (num_convs - 1)
    return nn.Sequential(*(conv_norm_relu(width, outputs, bias=bias) for width in each))


class JoinedContext(nn.Module):
    """Joins what each pixel gets by attention to the feature, widened if there is more of it."""

    def __init__(self, width: int, attentions: Sequence[nn.Module], *, bias: bool = False) -> None:
        super().__init__()
        total = width * len(attentions)
        self.attentions = nn.ModuleList(attentions)
        self.widen = conv_norm_relu(width, total, bias=bias) if total > width else nn.Identity()
        self.join = conv_norm_relu(2 * total, width, bias=bias)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        contexts = (attention(x) for attention in self.attentions)  # none outlives their joining
        return self.join(torch.cat([*contexts, self.widen(x)], dim=1))
