"""BiSeNet (Yu, Wang, Peng, Gao, Yu & Sang, 2018, arXiv:1808.00897).

A fast network loses either detail or the field of view, so it takes two paths: a shallow and wide
one keeps the detail at stride 8, a deep one goes down to stride 32 and the whole image for
context. Attention over channels refines the deep features and fuses the two paths.
"""

from collections.abc import Callable, Iterable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from segcore.backbones import Backbone
from segcore.errors import InputError, suggestion
from segcore.layers import ImagePooling, auxiliary_head, conv_norm_relu, kaiming_conv, resize
from segcore.segmenter import Segmenter
from segcore.types import Images, Prediction

__all__ = ["BiSeNet"]


class BiSeNet(Segmenter):
    """The form of MMSegmentation on ResNet-18, both auxiliary heads to be weighted like the main
    one (``auxiliary_weight=1``). Other published forms: MMSegmentation on ResNet-50
    ``spatial_widths=(256, 256, 256, 512), context_width=512, width=1024, head_width=1024,
    auxiliary_width=256``; CoinCheung's ``gate="norm"``; the paper's three ``spatial_widths``; its
    authors' ``gate="two_convs", upsampling="bilinear", head_width=64, auxiliary_width=256``."""

    needed_strides = (16, 32)

    def __init__(
        self,
        backbone: Backbone,
        num_classes: int,
        *,
        spatial_widths: Sequence[int] = (64, 64, 64, 128),
        context_width: int = 128,
        width: int = 256,
        head_width: int = 256,
        gate: str = "norm_relu",
        upsampling: str = "nearest",
        dropout: float = 0.1,
        auxiliary: bool = True,
        auxiliary_width: int = 64,
    ) -> None:
        _check("gate", gate, _GATES)
        _check("upsampling", upsampling, ("nearest", "bilinear"))
        super().__init__()
        self.backbone = backbone
        self.spatial = spatial_path(spatial_widths)
        self.taken = middle, last = backbone.index_of(16), backbone.index_of(32)
        inputs = backbone.channels[middle], backbone.channels[last]
        self.context = ContextPath(*inputs, context_width, upsampling)
        self.fuse = FeatureFusion(spatial_widths[-1] + context_width, width, gate)
        self.head = auxiliary_head(width, num_classes, width=head_width, dropout=dropout)
        if auxiliary:
            self.auxiliary = nn.ModuleList(
                auxiliary_head(context_width, num_classes, width=auxiliary_width, dropout=dropout)
                for _ in ("stride 8", "stride 16")
            )

    def forward(self, images: Images) -> Prediction:
        features = self.backbone(images)
        middle, last = (features[i] for i in self.taken)
        detail = self.spatial(images)
        fine, coarse = self.context(middle, last, detail.shape[-2:])
        logits = self.head(self.fuse(detail, fine))
        if self.training and self.auxiliary:
            finer, coarser = self.auxiliary
            return Prediction(logits, auxiliary=(finer(fine), coarser(coarse)))
        return Prediction(logits)


def spatial_path(widths: Sequence[int]) -> nn.Sequential:
    """Three strides of two (section 3.1), and the projection that all published code adds."""
    if len(widths) not in (3, 4):
        raise InputError(f"method bisenet: spatial_widths must be 3 or 4, not {list(widths)}")
    first, second, third, *projection = widths
    return nn.Sequential(
        conv_norm_relu(3, first, 7 if projection else 3, stride=2),
        conv_norm_relu(first, second, 3, stride=2),
        conv_norm_relu(second, third, 3, stride=2),
        *(conv_norm_relu(third, last) for last in projection),
    )


class ContextPath(nn.Module):
    """From the whole image up to stride 8, taking in a refined feature at each stride on the way
    (section 3.2); gives the maps at strides 8 and 16."""

    def __init__(self, middle: int, last: int, width: int, upsampling: str) -> None:
        super().__init__()
        self.pooling = ImagePooling(last, width)
        self.refine_last = AttentionRefinement(last, width)
        self.smooth_last = conv_norm_relu(width, width, 3)
        self.refine_middle = AttentionRefinement(middle, width)
        self.smooth_middle = conv_norm_relu(width, width, 3)
        self.upsampling = upsampling

    def forward(
        self, middle: Float[Tensor, "b _ h1 w1"], last: Float[Tensor, "b _ _ _"], size: torch.Size
    ) -> tuple[Float[Tensor, "b c h w"], Float[Tensor, "b c h1 w1"]]:
        coarse = self.refine_last(last) + self.pooling(last)
        coarse = self.smooth_last(resize(coarse, middle.shape[-2:], mode=self.upsampling))
        fine = self.refine_middle(middle) + coarse
        return self.smooth_middle(resize(fine, size, mode=self.upsampling)), coarse


class AttentionRefinement(nn.Module):
    """A convolution, then each channel weighed by what the whole map says of it (section 3.2)."""

    def __init__(self, inputs: int, width: int) -> None:
        super().__init__()
        self.conv = conv_norm_relu(inputs, width, 3)
        self.gate = conv_norm_relu(width, width, relu=False)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b cc h w"]:
        x = self.conv(x)
        return x * self.gate(x.mean(dim=(2, 3), keepdim=True)).sigmoid()


class FeatureFusion(nn.Module):
    """Both paths joined, and the channels that matter for this image raised (section 3.3)."""

    def __init__(self, inputs: int, width: int, gate: str) -> None:
        super().__init__()
        self.join = conv_norm_relu(inputs, width)
        self.gate = _GATES[gate](width)

    def forward(
        self, detail: Float[Tensor, "b c1 h w"], context: Float[Tensor, "b c2 h w"]
    ) -> Float[Tensor, "b c h w"]:
        x = self.join(torch.cat([detail, context], dim=1))
        return x + x * self.gate(x.mean(dim=(2, 3), keepdim=True)).sigmoid()


_GATES: dict[str, Callable[[int], nn.Module]] = {
    # MMSegmentation's ReLU before the sigmoid keeps every gate at a half or more.
    "norm_relu": lambda width: conv_norm_relu(width, width),
    "norm": lambda width: conv_norm_relu(width, width, relu=False),
    "two_convs": lambda width: nn.Sequential(
        kaiming_conv(width, width), nn.ReLU(inplace=True), kaiming_conv(width, width)
    ),
}


def _check(option: str, value: str, known: Iterable[str]) -> None:
    if value not in known:
        raise InputError(f"method bisenet: no {option} {value!r}{suggestion(value, known)}")
