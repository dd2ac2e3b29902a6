"""Backbones turn images into features, fine to coarse; a method receives one ready-made."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from segcore.backbones.backbone import Backbone
from segcore.backbones.concat_pyramid import ConcatPyramid
from segcore.backbones.timm_features import TimmFeatures
from segcore.errors import InputError, suggestion

__all__ = ["Backbone", "ConcatPyramid", "build_backbone"]

_PYRAMIDS: dict[str, Callable[[Backbone], Backbone]] = {"concat": ConcatPyramid}
"""What may be put around a backbone, changing its features and not the method."""


def build_backbone(
    name: str,
    *,
    output_stride: int | None = None,
    pretrained: bool = False,
    weights_folder: Path | str | None = None,
    pyramid: str | None = None,
    **options: Any,
) -> Backbone:
    """A backbone by its timm name.

    ``output_stride`` is that of the last feature (the network's own if None), reached by
    dilation. ``pretrained`` loads ImageNet weights: from ``weights_folder``, where it holds
    ``<name>.safetensors``, else through timm's hub cache. ``pyramid`` names what is put around
    the backbone: ``concat`` joins all features at the finest stride. ``options`` are keywords of
    timm's constructor. Raises InputError on an unknown name or option, on a stride that the
    network does not have, and where weights cannot be had.
    """
    if pyramid is not None and pyramid not in _PYRAMIDS:
        raise InputError(f"no pyramid {pyramid!r}{suggestion(pyramid, _PYRAMIDS)}")
    folder = Path(weights_folder) if weights_folder else None
    backbone = TimmFeatures(
        name, output_stride=output_stride, pretrained=pretrained, weights_folder=folder, **options
    )
    return _PYRAMIDS[pyramid](backbone) if pyramid else backbone
