"""CCNet (Huang, Wang, Huang, Huang, Wei & Liu, 2019, arXiv:1811.11721).

To gather context from all pixels at little cost, each pixel attends only to those on its own
row and column, its criss-cross path. Done a second time, with the same weights, this brings
every pixel in touch with every other.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from segcore.backbones import Backbone
from segcore.layers import ContextHead, auxiliary_head
from segcore.segmenter import Segmenter
from segcore.types import Images, Prediction

__all__ = ["CCNet"]


class CCNet(Segmenter):
    """``recurrence`` is how often the one attention is applied (section 3.3)."""

    def __init__(
        self,
        backbone: Backbone,
        num_classes: int,
        *,
        width: int = 512,
        key_width: int = 64,
        recurrence: int = 2,
        dropout: float = 0.1,
        auxiliary: bool = True,
        auxiliary_width: int = 256,
    ) -> None:
        super().__init__()
        block = CrissCrossAttention(width, key_width, recurrence)
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


class CrissCrossAttention(nn.Module):
    """What a pixel gathers from its row and column, added to it (section 3.2, eq. 1, 2), again
    and again; ``gain`` starts at zero."""

    def __init__(self, channels: int, key_width: int, recurrence: int) -> None:
        super().__init__()
        self.recurrence = recurrence
        self.query = nn.Conv2d(channels, key_width, 1)
        self.key = nn.Conv2d(channels, key_width, 1)
        self.value = nn.Conv2d(channels, channels, 1)
        self.gain = nn.Parameter(torch.tensor(0.0))

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        for _ in range(self.recurrence):
            x = x + self.gain * gather_criss_cross(self.query(x), self.key(x), self.value(x))
        return x


def gather_criss_cross(
    query: Float[Tensor, "b d h w"], key: Float[Tensor, "b d h w"], value: Float[Tensor, "b e h w"]
) -> Float[Tensor, "b e h w"]:
    """For each pixel the mean of the h + w - 1 values on its row and column, weighted by one
    softmax over all of them (eq. 1, 2); memory grows with h·w·(h + w)."""
    height = query.shape[2]
    # Channels side by side in memory, as the products of rows and of columns both like them.
    query, key, value = (each.permute(0, 2, 3, 1).contiguous() for each in (query, key, value))
    in_column = torch.matmul(query.transpose(1, 2), key.permute(0, 2, 3, 1))
    # A pixel is on its row as well as on its column; it counts once.
    itself = torch.eye(height, dtype=torch.bool, device=query.device)
    in_column = in_column.masked_fill(itself, float("-inf")).transpose(1, 2)
    in_row = torch.matmul(query, key.mT)
    weights = torch.cat([in_column, in_row], dim=-1).softmax(dim=-1)
    from_column = torch.matmul(weights[..., :height].transpose(1, 2), value.transpose(1, 2))
    mixed = torch.matmul(weights[..., height:], value)
    mixed += from_column.transpose(1, 2)
    return mixed.permute(0, 3, 1, 2)
