"""GCNet (Cao, Xu, Lin, Wei & Hu, 2019, arXiv:1904.11492), for segmentation.

What a non-local block gives back hardly depends on the position that asks. So one attention map
serves all positions: it gathers a single vector from the whole image, which a narrow bottleneck
transforms and which is then fused with every position. The head is MMSegmentation's.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from segcore.backbones import Backbone
from segcore.errors import InputError
from segcore.layers import ContextHead, auxiliary_head
from segcore.segmenter import Segmenter
from segcore.types import Images, Prediction

__all__ = ["GCNet"]

_FUSIONS = ("multiply", "add")


class GCNet(Segmenter):
    """``ratio`` is the bottleneck's width over ``width`` (the paper's 1/16 is for a block in
    every residual unit). ``fusion`` lists how the context reaches each position: ``add``,
    ``multiply`` (a sigmoid gate, applied first) or both."""

    def __init__(
        self,
        backbone: Backbone,
        num_classes: int,
        *,
        width: int = 512,
        ratio: float = 0.25,
        fusion: Sequence[str] = ("add",),
        dropout: float = 0.1,
        auxiliary: bool = True,
        auxiliary_width: int = 256,
    ) -> None:
        if isinstance(fusion, str) or not fusion or not set(fusion) <= set(_FUSIONS):
            raise InputError(
                f"method gcnet: fusion must list add, multiply or both, as in [add]; not {fusion!r}"
            )
        if int(width * ratio) < 1:
            raise InputError(
                f"method gcnet: ratio {ratio} of width {width} leaves the bottleneck no channel; "
                "give a larger ratio or width"
            )
        super().__init__()
        block = GlobalContext(width, int(width * ratio), fusion)
        self.backbone = backbone
        self.head = ContextHead(
            backbone.channels[-1], num_classes, block, width=width, dropout=dropout
        )
        if auxiliary:
            self.auxiliary = auxiliary_head(
                backbone.channels[-2], num_classes, width=auxiliary_width, dropout=dropout
            )

    def forward(self, images: Images) -> Prediction:
        features = self.backbone(images)
        logits = self.head(features[-1])
        return self.prediction(logits, features)


class GlobalContext(nn.Module):
    """Context modelling, transform and fusion (section 3.3, eq. 5). The transforms end in zeros:
    with ``add`` alone the block is the identity at first, a gate starts half open."""

    def __init__(self, channels: int, bottleneck: int, fusion: Sequence[str]) -> None:
        super().__init__()
        self.attention = nn.Conv2d(channels, 1, 1)
        nn.init.kaiming_normal_(self.attention.weight, nonlinearity="relu")
        nn.init.zeros_(self.attention.bias)  # pyright: ignore[reportArgumentType] -- there is one
        self.transforms = nn.ModuleDict(
            {each: transform(channels, bottleneck) for each in _FUSIONS if each in fusion}
        )

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        context = gather_context(x, self.attention(x))
        if "multiply" in self.transforms:
            x = x * self.transforms["multiply"](context).sigmoid()
        if "add" in self.transforms:
            x = x + self.transforms["add"](context)
        return x


def transform(channels: int, bottleneck: int) -> nn.Sequential:
    """The bottleneck; LayerNorm inside it eases its optimisation (section 3.3)."""
    last = nn.Conv2d(bottleneck, channels, 1)
    nn.init.zeros_(last.weight)
    nn.init.zeros_(last.bias)  # pyright: ignore[reportArgumentType] -- a bias there is
    first = nn.Conv2d(channels, bottleneck, 1)
    return nn.Sequential(first, nn.LayerNorm([bottleneck, 1, 1]), nn.ReLU(inplace=True), last)


def gather_context(
    x: Float[Tensor, "b c h w"], scores: Float[Tensor, "b 1 h w"]
) -> Float[Tensor, "b c 1 1"]:
    """The mean of all positions, weighted by one softmax over them."""
    weights = scores.flatten(2).softmax(dim=-1)
    return torch.bmm(x.flatten(2), weights.mT).unsqueeze(-1)
