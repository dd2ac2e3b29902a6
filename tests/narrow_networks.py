"""Any method at a hundredth of its width: how it computes stays, what it costs does not."""

from typing import Any

from segcore import models
from segcore.backbones import Backbone, build_backbone
from segcore.segmenter import Segmenter

CLASSES = 5

NARROW: dict[str, Any] = {
    "width": 16,
    "key_width": 8,
    "value_width": 8,
    "auxiliary_width": 8,
    "region_width": 16,
    "low_level_width": 8,
    "num_codes": 4,
    "coarse_width": 24,
    "middle_width": 16,
    "fine_width": 8,
    "layer_width": 4,
    "context_width": 8,
    "head_width": 8,
    "spatial_widths": (4, 4, 4, 8),
}
"""The options that say how wide a head is, of all methods."""


def build_narrow(method: str, *, pyramid: str | None = None, **options: Any) -> Segmenter:
    """On a dilated backbone, but for a pyramid, which takes it as it is, and for a method that
    needs coarser strides than a dilated one has."""
    narrow = {key: each for key, each in NARROW.items() if key in models.list_options(method)}
    dilated = set(models.method_class(method).needed_strides) <= {4, 8}
    backbone = narrow_backbone(8 if dilated and pyramid is None else None, pyramid)
    return models.build_model(method, backbone, CLASSES, **(narrow | options))


def narrow_backbone(output_stride: int | None, pyramid: str | None = None) -> Backbone:
    return build_backbone(
        "resnet18",
        output_stride=output_stride,
        pyramid=pyramid,
        pyramid_options={"width": 8} if pyramid == "joint" else {},
        layers=(1, 1, 1, 1),
        channels=(8, 16, 24, 32),
    )
