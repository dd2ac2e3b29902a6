"""OCRNet (Yuan, Chen & Wang, 2020, arXiv:1909.11065).

A pixel's label is the label of the object it belongs to. A coarse prediction gathers one vector
per class from the whole image, each pixel attends over those vectors, and what it gets back,
joined to the pixel's own feature, is classified.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from segcore.backbones import Backbone
from segcore.errors import InputError
from segcore.layers import AtrousPyramid, auxiliary_head, classifier, conv_norm_relu, resize
from segcore.segmenter import Segmenter
from segcore.types import Images, Prediction

__all__ = ["OCRNet"]


class OCRNet(Segmenter):
    """The coarse prediction (``regions``) is part of the method, in training and inference.

    ``context="asp"`` joins an atrous pyramid to what the objects give (the paper's ASP-OCR).

    Other published forms: openseg's ``bias=True, region_width=512, dropout=0.05``, its OCR-B with
    ``width=256, key_width=128, region_width=256`` and its ASP-OCR with ``context="asp", width=256,
    key_width=128`` (dropout 0.1); on the joined branches of HRNet ``region_kernel=1,
    region_width=<all channels>, dropout=0.0``; with a pyramid there, ``dilations=(24, 48, 72)``.
    """

    needed_features = 2

    def __init__(
        self,
        backbone: Backbone,
        num_classes: int,
        *,
        context: str = "plain",
        width: int = 512,
        key_width: int = 256,
        region_width: int = 256,
        region_kernel: int = 3,
        dilations: Sequence[int] = (12, 24, 36),
        bias: bool = False,
        dropout: float = 0.1,
    ) -> None:
        if context not in ("plain", "asp"):
            raise InputError(f"method ocrnet: context is plain or asp, not {context!r}")
        super().__init__()
        *_, middle, last = backbone.channels
        self.backbone = backbone
        self.regions = auxiliary_head(
            middle,
            num_classes,
            width=region_width,
            kernel=region_kernel,
            dropout=dropout,
            bias=bias,
        )
        self.pixels = conv_norm_relu(last, width, 3, bias=bias)
        self.attend = ObjectAttention(width, key_width, bias=bias)
        self.pyramid = (
            AtrousPyramid(last, width, dilations, bias=bias) if context == "asp" else None
        )
        joined = width + (self.pyramid.outputs if self.pyramid else width)
        self.join = conv_norm_relu(joined, width, bias=bias)
        self.classify = classifier(width, num_classes, dropout=dropout)

    def forward(self, images: Images) -> Prediction:
        *_, middle, last = self.backbone(images)
        coarse = resize(self.regions(middle), last.shape[-2:])
        pixels = self.pixels(last)
        context = self.attend(pixels, gather_objects(pixels, coarse))
        beside = self.pyramid(last) if self.pyramid else pixels
        logits = self.classify(self.join(torch.cat([context, beside], dim=1)))
        return Prediction(logits, auxiliary=(coarse,) if self.training else ())


def gather_objects(
    pixels: Float[Tensor, "b c h w"], coarse: Float[Tensor, "b k h w"]
) -> Float[Tensor, "b c k 1"]:
    """One vector per class, the mean of the pixels weighted by how much each looks like it:
    a softmax over pixels, not over classes (section 3.2, eq. 8)."""
    weights = coarse.flatten(2).softmax(dim=-1)
    return torch.einsum("bkn,bcn->bck", weights, pixels.flatten(2)).unsqueeze(-1)


class ObjectAttention(nn.Module):
    """Each pixel's mixture of object vectors, by scaled similarity (section 3.2, eq. 9, 10)."""

    def __init__(self, channels: int, key_width: int, *, bias: bool) -> None:
        super().__init__()
        self.query = nn.Sequential(
            conv_norm_relu(channels, key_width, bias=bias),
            conv_norm_relu(key_width, key_width, bias=bias),
        )
        self.key = nn.Sequential(
            conv_norm_relu(channels, key_width, bias=bias),
            conv_norm_relu(key_width, key_width, bias=bias),
        )
        self.value = conv_norm_relu(channels, key_width, bias=bias)
        self.project = conv_norm_relu(key_width, channels, bias=bias)

    def forward(
        self, pixels: Float[Tensor, "b c h w"], objects: Float[Tensor, "b c k 1"]
    ) -> Float[Tensor, "b c h w"]:
        mixture = mix_objects(self.query(pixels), self.key(objects), self.value(objects))
        return self.project(mixture)


def mix_objects(
    query: Float[Tensor, "b d h w"], key: Float[Tensor, "b d k 1"], value: Float[Tensor, "b d k 1"]
) -> Float[Tensor, "b d h w"]:
    """Attention of pixels over the k objects; the map is k by pixels, so it may be whole."""
    scaled = key.squeeze(-1) * key.shape[1] ** -0.5
    similarity = torch.einsum("bdk,bdn->bkn", scaled, query.flatten(2))
    mixture = torch.einsum("bdk,bkn->bdn", value.squeeze(-1), similarity.softmax(dim=1))
    return mixture.unflatten(2, query.shape[-2:])
