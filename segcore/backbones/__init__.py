"""Backbones turn images into features, fine to coarse; a method receives one ready-made."""

from collections.abc import Callable, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import torch

from segcore.backbones.backbone import Backbone
from segcore.backbones.concat_pyramid import ConcatPyramid
from segcore.backbones.joint_pyramid import JointPyramid
from segcore.backbones.options import check_options, keywords_of
from segcore.backbones.pretraining import folder_weights, load_weights
from segcore.backbones.wide_resnet38 import POOLED_STAGES, WideResNet38
from segcore.errors import InputError, suggestion

__all__ = ["Backbone", "ConcatPyramid", "JointPyramid", "build_backbone", "list_backbones"]

_PYRAMIDS: dict[str, Callable[..., Backbone]] = {"concat": ConcatPyramid, "joint": JointPyramid}
"""What may be put around a backbone, changing its features and not the method."""


def list_backbones() -> list[str]:
    """Every name that ``build_backbone`` takes: timm's, and those that timm does not have."""
    return sorted([*POOLED_STAGES, *_timm_features().names()])


def build_backbone(
    name: str,
    *,
    output_stride: int | None = None,
    pretrained: bool = False,
    weights_folder: Path | str | None = None,
    pyramid: str | None = None,
    pyramid_options: Mapping[str, Any] = {},
    **options: Any,
) -> Backbone:
    """A backbone by its name, one of ``list_backbones()``.

    ``output_stride`` is that of the last feature (the network's own if None), reached by
    dilation. ``pretrained`` loads ImageNet weights: from ``weights_folder``, where it holds
    ``<name>.safetensors``, else through timm's hub cache. ``pyramid`` names what is put around
    the backbone: ``concat`` joins all features at the finest stride, ``joint`` the last three at
    stride 8 (JPU). ``options`` are keywords of timm's constructor, of ``dilate_stages`` (ResNet
    and its kin) and ``dilate_first_blocks`` (MobileNetV2) in ``segcore.backbones.dilation``, or
    of ``WideResNet38``. Raises InputError on an unknown name or option, on a stride that the
    network does not have, and where weights cannot be had.
    """
    if pyramid is not None and pyramid not in _PYRAMIDS:
        raise InputError(f"no pyramid {pyramid!r}{suggestion(pyramid, _PYRAMIDS)}")
    if pyramid_options and pyramid is None:
        raise InputError("pyramid_options are given and no pyramid; name one, or leave them out")
    _check_name(name)
    if output_stride is not None:
        options["output_stride"] = output_stride
    folder = Path(weights_folder) if weights_folder else None
    if name in POOLED_STAGES:
        backbone = _construct(f"backbone {name}", WideResNet38, name, options)
        if pretrained:
            load_weights(backbone, folder_weights(name, folder))
    else:
        backbone = _timm_features().TimmFeatures(
            name, pretrained=pretrained, weights_folder=folder, **options
        )
    if pyramid is None:
        return backbone
    return _construct(f"pyramid {pyramid}", _PYRAMIDS[pyramid], backbone, pyramid_options)


def _check_name(name: str) -> None:
    if name not in POOLED_STAGES and not _timm_features().has(name):
        near = get_close_matches(name, list_backbones(), n=1, cutoff=0.6)
        remedy = suggestion(name, near) or "; list_backbones() names those there are"
        raise InputError(f"no backbone {name!r}{remedy}")


def _construct(
    what: str, build: Callable[..., Backbone], first: Any, options: Mapping[str, Any]
) -> Backbone:
    """``build(first, **options)``, with Python's and torch's refusals said in our terms."""
    check_options(what, options, keywords_of(build))
    try:
        return build(first, **options)
    except InputError:
        raise
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(f"{what} with {dict(options)}: {error}") from error


def _timm_features():
    """Not above: timm takes a second, which whoever only starts a training has better uses for.
    Not on the meta device either, where constants of its modules would stay without values."""
    with torch.device("cpu"):
        from segcore.backbones import timm_features

    return timm_features
