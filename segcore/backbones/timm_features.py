"""Any timm network as a backbone: its refusals translated, its traps for segmentation mended."""

import re
from pathlib import Path
from typing import Any

import timm
import torch
from timm.models.hrnet import HighResolutionNet
from torch import Tensor, nn

from segcore.backbones.backbone import Backbone
from segcore.backbones.densenet import dilate_densenet
from segcore.backbones.dilation import DILATION_OPTIONS, set_dilations
from segcore.backbones.hrnet_fusion import replace_fusion
from segcore.backbones.options import check_options, keywords_of
from segcore.backbones.pretraining import folder_weights, timm_weights, weights_missing
from segcore.errors import InputError, suggestion
from segcore.types import Images

_FINEST = 4
"""Features at stride 1 and 2 are the stem's; no method reads them."""

VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "resnet269c": ("resnet152c", {"layers": (3, 30, 48, 8)}),
    "resnet269s": ("resnet152s", {"layers": (3, 30, 48, 8)}),
}
"""Networks that timm can build and has no name for."""


class TimmFeatures(Backbone):
    """The features of a timm network, or of one of ``VARIANTS``, at stride 4 and coarser.

    ``options`` are timm's keywords and those of ``segcore.backbones.dilation``;
    ``enlarge_by_factor`` is a form of HRNet (``hrnet_fusion``). Raises InputError on what cannot
    be built, and where pretrained weights cannot be had.
    """

    def __init__(
        self,
        name: str,
        *,
        output_stride: int | None = None,
        pretrained: bool = False,
        weights_folder: Path | None = None,
        enlarge_by_factor: bool = False,
        **options: Any,
    ) -> None:
        super().__init__()
        forms = {key: options.pop(key) for key in DILATION_OPTIONS if key in options}
        source = _weights_source(name, weights_folder) if pretrained else {}
        self.body = _create(name, output_stride, options | source)
        set_dilations(name, self.body, forms)
        reductions = self.body.feature_info.reduction()
        if output_stride is not None and reductions[-1] != output_stride:
            raise InputError(_stride_refused(name, output_stride, options))
        self.channels_last = str(getattr(self.body, "output_fmt", "NCHW")).endswith("NHWC")
        self.kept = tuple(i for i, stride in enumerate(reductions) if stride >= _FINEST)
        channels = self.body.feature_info.channels()
        self.channels = tuple(channels[i] for i in self.kept)
        self.strides = tuple(reductions[i] for i in self.kept)
        if enlarge_by_factor and not isinstance(self.body, HighResolutionNet):
            raise InputError(
                f"backbone {name} has no option 'enlarge_by_factor', which is for HRNet; "
                "leave it out"
            )
        replace_fusion(self.body, enlarge_by_factor=enlarge_by_factor)

    def forward(self, images: Images) -> list[Tensor]:
        features = self.body(images)
        if self.channels_last:  # Swin and its kind
            features = [each.permute(0, 3, 1, 2) for each in features]
        return [features[i] for i in self.kept]


def _create(name: str, output_stride: int | None, options: dict[str, Any]) -> Any:
    if name.startswith("hrnet"):  # the class swallows unknown keywords
        given = [option for option in options if not option.startswith("pretrained")]
        check_options(f"backbone {name}", given, _options_of(HighResolutionNet))
    try:
        return _create_plainly(name, output_stride, options)
    except (AssertionError, TypeError, ValueError, RuntimeError, OSError) as error:
        message = _explain(name, output_stride, options, error)
        if message is None:
            raise
        raise InputError(message) from error
    except Exception as error:
        if not options.get("pretrained"):
            raise
        # Whatever the hub's client raises where it has no network; its types are not ours to know.
        raise InputError(weights_missing(name, error)) from error


def _explain(
    name: str, output_stride: int | None, options: dict[str, Any], error: Exception
) -> str | None:
    """What to tell the person, or None where the error is none of theirs."""
    unknown = re.search(r"unexpected keyword argument '(\w+)'", str(error))
    if unknown and unknown[1] in options:
        known = _options_of(_class_of(name))
        return f"backbone {name} has no option {unknown[1]!r}{suggestion(unknown[1], known)}"
    plain = {key: value for key, value in options.items() if not key.startswith("pretrained")}
    if output_stride is not None and not _builds(name, output_stride, plain):
        return _stride_refused(name, output_stride, plain)
    if options.get("pretrained") and _builds(name, output_stride, plain):
        return weights_missing(name, error)
    if plain:
        return f"backbone {name} with {plain}: {error or type(error).__name__}"
    return None


def _options_of(class_: type[nn.Module]) -> list[str]:
    """A class's own, and those that this package adds for some networks."""
    own = [each for each in keywords_of(class_) if each != "cfg"]
    return [*own, *DILATION_OPTIONS, "enlarge_by_factor"]


def _class_of(name: str) -> type[nn.Module]:
    base, _ = VARIANTS.get(name, (name, {}))
    with torch.device("meta"):
        return type(timm.create_model(base))


def _builds(name: str, output_stride: int | None, options: dict[str, Any]) -> bool:
    """Tried without memory: on the meta device."""
    try:
        with torch.device("meta"):
            body = _create_plainly(name, output_stride, options)
    except (AssertionError, TypeError, ValueError, RuntimeError, NotImplementedError):
        return False
    return output_stride is None or body.feature_info.reduction()[-1] == output_stride


def _create_plainly(name: str, output_stride: int | None, options: dict[str, Any]) -> Any:
    base, variant = VARIANTS.get(name, (name, {}))
    keywords = {**variant, **options, "features_only": True}
    if base.startswith("hrnet"):
        # timm's default are the widened features of its classification head: the wrong network.
        keywords["feature_location"] = ""
    dense = timm.models.is_model_in_modules(base, ["densenet"])
    if output_stride is not None and not dense:
        keywords["output_stride"] = output_stride
    body = timm.create_model(base, **keywords)
    if output_stride is not None and dense:
        dilate_densenet(body, output_stride)
    return body


def _stride_refused(name: str, output_stride: int, options: dict[str, Any]) -> str:
    with torch.device("meta"):
        native = _create_plainly(name, None, options).feature_info.reduction()[-1]
    possible = [each for each in (8, 16, 32) if _builds(name, each, options)]
    if possible:
        remedy = f"it can at {', '.join(map(str, possible))}"
    else:
        remedy = f"leave output_stride out (its own is {native})"
    return f"backbone {name} cannot be built at output stride {output_stride}; {remedy}"


def _weights_source(name: str, folder: Path | None) -> dict[str, Any]:
    if name not in VARIANTS:
        return timm_weights(name, folder)
    file = str(folder_weights(name, folder))
    return {"pretrained": True, "pretrained_cfg_overlay": {"file": file}}
