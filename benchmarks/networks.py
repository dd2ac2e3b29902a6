"""A network of any library by the name of its case: images in, scores at the images' size out.

Cases are those of ``parity/cases.yaml``, each of which describes one network as MMSegmentation
and as Segcore build it, and torchvision's two. Nothing is imported before it is needed: each
library may live in an environment of its own.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch.nn.functional as F
import yaml
from torch import Tensor, nn

CLASSES = 19
CASES = Path(__file__).parent / "parity/cases.yaml"

_RESNET50 = {"name": "resnet50", "output_stride": 8}
TORCHVISION: dict[str, dict[str, Any]] = {
    "fcn-torchvision": {
        "constructor": "fcn_resnet50",
        "backbone": _RESNET50,
        "options": {"num_convs": 1, "concat_input": False},
    },
    "deeplabv3-torchvision": {
        "constructor": "deeplabv3_resnet50",
        "backbone": _RESNET50,
        "options": {"width": 256, "projection_kernel": 1, "num_convs": 1},
    },
}


class Network(NamedTuple):
    """``scores`` gives class scores at the size of the images; ``module`` holds the parameters."""

    module: nn.Module
    scores: Callable[[Tensor], Tensor]


def read_cases() -> dict[str, dict[str, Any]]:
    """By name: ``backbone`` and ``options`` are Segcore's, the rest is the other library's."""
    return yaml.safe_load(CASES.read_text(encoding="utf-8"))["cases"] | TORCHVISION


def peer_of(case: str) -> str:
    """The library that the case is compared with."""
    return "torchvision" if case in TORCHVISION else "mmseg"


def build_network(library: str, case: str) -> Network:
    """Without weights, in eval mode. ``library`` is segcore, mmseg or torchvision."""
    builders = {"segcore": _of_segcore, "mmseg": _of_mmseg, "torchvision": _of_torchvision}
    network = builders[library](case, read_cases()[case])
    network.module.eval()
    return network


def _of_segcore(case: str, described: dict[str, Any]) -> Network:
    from segcore.backbones import build_backbone
    from segcore.models import build_model

    backbone = build_backbone(**described["backbone"])
    options = described.get("options", {}) | {"auxiliary": False}
    model = build_model(case.partition("-")[0], backbone, CLASSES, **options)

    def scores(images: Tensor) -> Tensor:
        return F.interpolate(model(images).logits, images.shape[-2:], mode="bilinear")

    return Network(model, scores)


def _of_mmseg(case: str, described: dict[str, Any]) -> Network:
    from benchmarks.parity import published

    model = published.build_model(published.load_registry(), described)

    def scores(images: Tensor) -> Tensor:
        size = tuple(images.shape[2:])
        meta = {"ori_shape": size, "img_shape": size, "pad_shape": size, "padding_size": [0] * 4}
        return model.encode_decode(images, [meta] * len(images))

    return Network(model, scores)


def _of_torchvision(case: str, described: dict[str, Any]) -> Network:
    from torchvision.models import segmentation

    constructor = getattr(segmentation, described["constructor"])
    model = constructor(weights=None, weights_backbone=None, num_classes=CLASSES)
    return Network(model, lambda images: model(images)["out"])
