"""EncNet (Zhang, Dana, Shi, Zhang, Wang, Tyagi & Agrawal, 2018, arXiv:1803.08904).

Knowing the scene, one knows which classes to look for. A context encoding, the pixels' residuals
to learned codewords, sums the scene up; it scales each channel of the feature, and it must tell
which classes occur in the image at all, which teaches the network to see small objects.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from segcore.backbones import Backbone
from segcore.errors import InputError
from segcore.layers import (
    auxiliary_head,
    classifier,
    conv_norm_relu,
    resize,
    without_autocast,
)
from segcore.segmenter import Segmenter
from segcore.types import Images, Prediction

__all__ = ["EncNet"]


class EncNet(Segmenter):
    """``presence`` is the paper's SE-loss: scores of "does class k occur?", made in training only.

    ``lateral`` joins two more features to the last, as the authors do on PASCAL-Context.
    """

    def __init__(
        self,
        backbone: Backbone,
        num_classes: int,
        *,
        width: int = 512,
        num_codes: int = 32,
        lateral: bool = False,
        presence: bool = True,
        dropout: float = 0.1,
        auxiliary: bool = True,
        auxiliary_width: int = 256,
    ) -> None:
        if lateral and len(backbone.channels) < 3:
            raise InputError(
                f"method encnet with lateral reads 3 features; the backbone has "
                f"{len(backbone.channels)}; set lateral to false"
            )
        super().__init__()
        self.backbone = backbone
        self.enter = conv_norm_relu(backbone.channels[-1], width, 3)
        self.lateral = LateralFusion(backbone.channels[-3:-1], width) if lateral else None
        self.encode = ContextEncoding(width, num_codes)
        self.gate = nn.Linear(width, width)
        self.classify = classifier(width, num_classes, dropout=dropout)
        self.presence = nn.Linear(width, num_classes) if presence else None
        if auxiliary:
            self.auxiliary = auxiliary_head(
                backbone.channels[-2], num_classes, width=auxiliary_width, dropout=dropout
            )

    def forward(self, images: Images) -> Prediction:
        features = self.backbone(images)
        x = self.enter(features[-1])
        if self.lateral:
            x = self.lateral(x, features[-3:-1])
        context = self.encode(x)
        gate = self.gate(context).sigmoid()
        # The published ReLU after this is left out: neither factor is ever negative.
        logits = self.classify(x * (1 + gate)[:, :, None, None])
        if not self.training:
            return Prediction(logits)
        auxiliary = (self.auxiliary(features[-2]),) if self.auxiliary else ()
        return Prediction(logits, auxiliary, self.presence(context) if self.presence else None)


class LateralFusion(nn.Module):
    """Earlier features brought to one width and size and joined to the last."""

    def __init__(self, inputs: tuple[int, ...], width: int) -> None:
        super().__init__()
        self.reduce = nn.ModuleList(conv_norm_relu(each, width) for each in inputs)
        self.join = conv_norm_relu(width * (1 + len(inputs)), width, 3)

    def forward(
        self, x: Float[Tensor, "b c h w"], earlier: list[Tensor]
    ) -> Float[Tensor, "b c h w"]:
        sides = [reduce(each) for reduce, each in zip(self.reduce, earlier, strict=True)]
        return self.join(torch.cat([x, *(resize(side, x.shape[-2:]) for side in sides)], dim=1))


class ContextEncoding(nn.Module):
    """One vector per image: the mean over m codewords of their residuals (section 3.1)."""

    def __init__(self, channels: int, num_codes: int) -> None:
        super().__init__()
        bound = (num_codes * channels) ** -0.5
        self.project = conv_norm_relu(channels, channels)
        self.codes = nn.Parameter(torch.empty(num_codes, channels).uniform_(-bound, bound))
        self.smoothing = nn.Parameter(torch.empty(num_codes).uniform_(-1, 0))
        self.norm = nn.BatchNorm1d(num_codes)  # each codeword over images and channels

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c"]:
        pixels = self.project(x).flatten(2)
        residuals = gather_residuals(pixels, self.codes, self.smoothing)
        return F.relu(self.norm(residuals)).mean(dim=1)


def gather_residuals(
    pixels: Float[Tensor, "b c n"], codes: Float[Tensor, "m c"], smoothing: Float[Tensor, " m"]
) -> Float[Tensor, "b m c"]:
    """e_k = sum over pixels of a_ik (x_i - d_k), with a_ik = softmax over k of s_k |x_i - d_k|²
    (eq. 1; ``smoothing`` is their -s_k).

    The square and the sum are multiplied out, so that no array of pixels by codewords by channels
    is made. Sums of thousands of terms, hence float32 at least, under autocast, too.
    """
    with without_autocast(pixels.device):
        precision = torch.promote_types(pixels.dtype, torch.float32)
        x, d = pixels.to(precision), codes.to(precision)
        products = (-2 * d) @ x
        distances = x.square().sum(dim=1, keepdim=True) + products + d.square().sum(1, True)
        weights = (smoothing.to(precision)[:, None] * distances).softmax(dim=1)
        residuals = weights @ x.mT - weights.sum(dim=2, keepdim=True) * d
    return residuals.to(codes.dtype)
