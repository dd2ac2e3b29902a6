"""Any timm network as a backbone: its refusals translated, its traps for segmentation mended."""

import re
from difflib import get_close_matches
from inspect import signature
from pathlib import Path
from typing import Any

import timm
import torch
from timm.models.hrnet import HighResolutionNet
from torch import Tensor, nn

from segcore.backbones.backbone import Backbone
from segcore.backbones.hrnet_fusion import replace_fusion
from segcore.errors import InputError, suggestion
from segcore.types import Images

_FINEST = 4
"""Features at stride 1 and 2 are the stem's; no method reads them."""


class TimmFeatures(Backbone):
    """The features of a timm network at stride 4 and coarser.

    Raises InputError on what timm cannot build, and where pretrained weights cannot be had.
    """

    def __init__(
        self,
        name: str,
        *,
        output_stride: int | None = None,
        pretrained: bool = False,
        weights_folder: Path | None = None,
        **options: Any,
    ) -> None:
        super().__init__()
        if not timm.is_model(name):
            near = get_close_matches(name, timm.list_models(), n=1, cutoff=0.6)
            remedy = suggestion(name, near) or "; timm.list_models() names those there are"
            raise InputError(f"no backbone {name!r}{remedy}")
        source = _weights_source(name, weights_folder) if pretrained else {}
        self.body = _create(name, output_stride, options | source)
        reductions = self.body.feature_info.reduction()
        if output_stride is not None and reductions[-1] != output_stride:
            raise InputError(_stride_refused(name, output_stride, options))
        self.channels_last = str(getattr(self.body, "output_fmt", "NCHW")).endswith("NHWC")
        self.kept = tuple(i for i, stride in enumerate(reductions) if stride >= _FINEST)
        channels = self.body.feature_info.channels()
        self.channels = tuple(channels[i] for i in self.kept)
        self.strides = tuple(reductions[i] for i in self.kept)
        replace_fusion(self.body)

    def forward(self, images: Images) -> list[Tensor]:
        features = self.body(images)
        if self.channels_last:  # Swin and its kind
            features = [each.permute(0, 3, 1, 2) for each in features]
        return [features[i] for i in self.kept]


def _create(name: str, output_stride: int | None, options: dict[str, Any]) -> Any:
    keywords = {**options, "features_only": True}
    if name.startswith("hrnet"):
        # timm's default are the widened features of its classification head: the wrong network.
        keywords["feature_location"] = ""
        _check_options(name, HighResolutionNet, options)
    if output_stride is not None:
        keywords["output_stride"] = output_stride
    try:
        return timm.create_model(name, **keywords)
    except (AssertionError, TypeError, ValueError, RuntimeError, OSError) as error:
        message = _explain(name, output_stride, options, error)
        if message is None:
            raise
        raise InputError(message) from error
    except Exception as error:
        if not options.get("pretrained"):
            raise
        # Whatever the hub's client raises where it has no network; its types are not ours to know.
        raise InputError(_weights_missing(name, error)) from error


def _explain(
    name: str, output_stride: int | None, options: dict[str, Any], error: Exception
) -> str | None:
    """What to tell the person, or None where the error is none of theirs."""
    unknown = re.search(r"unexpected keyword argument '(\w+)'", str(error))
    if unknown and unknown[1] in options:
        class_ = _class_of(name)
        return f"backbone {name} has no option {unknown[1]!r}{_near(unknown[1], class_)}"
    plain = {key: value for key, value in options.items() if not key.startswith("pretrained")}
    if output_stride is not None and not _builds(name, output_stride, plain):
        return _stride_refused(name, output_stride, plain)
    if options.get("pretrained") and _builds(name, output_stride, plain):
        return _weights_missing(name, error)
    if plain:
        return f"backbone {name} with {plain}: {error or type(error).__name__}"
    return None


def _check_options(name: str, class_: type[nn.Module], options: dict[str, Any]) -> None:
    """For classes that swallow unknown keywords."""
    for option in options:
        if option not in signature(class_).parameters and not option.startswith("pretrained"):
            raise InputError(f"backbone {name} has no option {option!r}{_near(option, class_)}")


def _near(option: str, class_: type[nn.Module]) -> str:
    return suggestion(option, set(signature(class_).parameters) - {"self", "kwargs", "cfg"})


def _class_of(name: str) -> type[nn.Module]:
    with torch.device("meta"):
        return type(timm.create_model(name))


def _builds(name: str, output_stride: int | None, options: dict[str, Any]) -> bool:
    """Tried without memory: on the meta device."""
    try:
        with torch.device("meta"):
            body = _create_plainly(name, output_stride, options)
    except (AssertionError, TypeError, ValueError, RuntimeError, NotImplementedError):
        return False
    return output_stride is None or body.feature_info.reduction()[-1] == output_stride


def _create_plainly(name: str, output_stride: int | None, options: dict[str, Any]) -> Any:
    # timm drops keywords that are None.
    return timm.create_model(name, features_only=True, output_stride=output_stride, **options)


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
    """timm's keywords for weights from ``folder`` where it holds them, else from the hub cache."""
    if folder is None:
        return {"pretrained": True}
    plain = name.split(".")[0]
    tag = getattr(timm.get_pretrained_cfg(plain, allow_unregistered=True), "tag", "")
    for each in (name, f"{plain}.{tag}", plain):
        path = folder / f"{each}.safetensors"
        if path.is_file():
            return {"pretrained": True, "pretrained_cfg_overlay": {"file": str(path)}}
    raise InputError(
        f"{folder} holds no pretrained weights for backbone {name}; put {plain}.safetensors "
        "there, or name no folder to take timm's hub cache"
    )


def _weights_missing(name: str, error: Exception) -> str:
    cause = f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
    return (
        f"pretrained weights for backbone {name} cannot be had ({cause}); fill timm's hub cache "
        f"where there is a network, or name a folder that holds {name}.safetensors, or set "
        "pretrained to false"
    )
