"""Any timm network as a backbone: its refusals translated, its traps for segmentation mended."""

import re
from pathlib import Path
from typing import Any

import timm
import torch
from timm.models.hrnet import HighResolutionNet
from torch import Tensor

from segcore.backbones.backbone import Backbone
from segcore.backbones.densenet import dilate_densenet
from segcore.backbones.dilation import DILATION_OPTIONS, set_dilations
from segcore.backbones.hrnet_fusion import replace_fusion
from segcore.backbones.options import check_options, keywords_of
from segcore.backbones.pretraining import folder_weights, weights_missing
from segcore.errors import InputError, suggestion
from segcore.types import Images

_FINEST = 4
"""Features at stride 1 and 2 are the stem's; no method reads them."""

VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "resnet269c": ("resnet152c", {"layers": (3, 30, 48, 8)}),
    "resnet269s": ("resnet152s", {"layers": (3, 30, 48, 8)}),
}
"""Networks that timm can build and has no name for."""


def names() -> list[str]:
    """Those that ``TimmFeatures`` takes; it takes them with timm's tags of weights as well."""
    return [*VARIANTS, *timm.list_models()]


def has(name: str) -> bool:
    return name in VARIANTS or timm.is_model(name)


class TimmFeatures(Backbone):
    """The features of a timm network, or of one of ``VARIANTS``, at stride 4 and coarser.

    ``options`` are timm's keywords and those of ``segcore.backbones.dilation``;
    ``enlarge_by_factor`` is a form of HRNet (``hrnet_fusion``). Raises InputError on what cannot
    be built, where pretrained weights cannot be had, and on images of a size that the network
    does not take.
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
        self.name = name
        self.body = _create(name, output_stride, options, source)
        set_dilations(name, self.body, forms)
        reductions, channels = self.body.feature_info.reduction(), self.body.feature_info.channels()
        self.channels_last = str(getattr(self.body, "output_fmt", "NCHW")).endswith("NHWC")
        self.kept = tuple(i for i, stride in enumerate(reductions) if stride >= _FINEST)
        self.channels = tuple(channels[i] for i in self.kept)
        self.strides = tuple(reductions[i] for i in self.kept)
        if enlarge_by_factor and not isinstance(self.body, HighResolutionNet):
            raise InputError(
                f"backbone {name} has no option 'enlarge_by_factor', which is for HRNet; "
                "leave it out"
            )
        replace_fusion(self.body, enlarge_by_factor=enlarge_by_factor)

    def forward(self, images: Images) -> list[Tensor]:
        try:
            features = self.body(images)
        except (AssertionError, RuntimeError) as error:
            if not _speaks_of_size(error):
                raise
            raise InputError(_size_refused(self.name, images.shape, error)) from error
        if self.channels_last:  # Swin and its kind
            features = [each.permute(0, 3, 1, 2) for each in features]
        return [features[i] for i in self.kept]


def _create(
    name: str, output_stride: int | None, options: dict[str, Any], source: dict[str, Any]
) -> Any:
    """``source`` are timm's keywords for pretrained weights, if there are to be any."""
    if name.startswith("hrnet") and options:  # its class swallows unknown keywords
        check_options(f"backbone {name}", options, _options_of(name))
    try:
        body = _create_plainly(name, output_stride, options | source)
        if output_stride not in (None, reached := body.feature_info.reduction()[-1]):
            raise ValueError(f"its last feature has stride {reached}")
    except Exception as error:  # timm's, torch's, the hub's client's: their types are not ours
        raise InputError(_refusal(name, output_stride, options, bool(source), error)) from error
    return body


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


def _refusal(
    name: str,
    output_stride: int | None,
    options: dict[str, Any],
    pretrained: bool,
    error: Exception,
) -> str:
    """Which of the things asked for cannot be had, and what would work."""
    unknown = re.search(r"unexpected keyword argument '(\w+)'", str(error))
    if unknown and unknown[1] in options:
        remedy = suggestion(unknown[1], _options_of(name))
        return f"backbone {name} has no option {unknown[1]!r}{remedy}"
    own, got = (_last_stride(name, stride, options) for stride in (None, output_stride))
    if own and got != (output_stride or own):
        possible = [each for each in (8, 16, 32) if _last_stride(name, each, options) == each]
        remedy = f"leave output_stride out (its own is {own})"
        if possible:
            remedy = f"it can at {', '.join(map(str, possible))}"
        return f"backbone {name} cannot be built at output stride {output_stride}; {remedy}"
    if own and pretrained:
        return weights_missing(name, error)
    given, remedy = (f" with {options}", "other options") if options else ("", "another backbone")
    cause = str(error) or type(error).__name__
    return f"backbone {name}{given} cannot be built ({cause}); choose {remedy}"


def _last_stride(name: str, output_stride: int | None, options: dict[str, Any]) -> int | None:
    """That of the network, built without memory on the meta device; None where it cannot be."""
    try:
        with torch.device("meta"):
            body = _create_plainly(name, output_stride, options)
    except Exception:
        return None
    return body.feature_info.reduction()[-1]


def _options_of(name: str) -> list[str]:
    """The network's own, and those that this package adds for some networks."""
    base, _ = VARIANTS.get(name, (name, {}))
    with torch.device("meta"):
        own = keywords_of(type(timm.create_model(base)))
    return [*(each for each in own if each != "cfg"), *DILATION_OPTIONS, "enlarge_by_factor"]


def _speaks_of_size(error: Exception) -> bool:
    """What timm asserts and what torch says of maps that do not fit each other."""
    if isinstance(error, torch.OutOfMemoryError):
        return False
    return isinstance(error, AssertionError) or bool(re.search("size|shape", str(error)))


def _size_refused(name: str, shape: torch.Size, error: Exception) -> str:
    height, width = shape[-2:]
    known, remedies = _options_of(name), ["give images of another size"]
    if "img_size" in known:
        remedies.append(f"build it for this one (option img_size: [{height}, {width}])")
    if "dynamic_img_size" in known:
        remedies.append("for any (dynamic_img_size: true)")
    return (
        f"backbone {name} does not take images of {height}x{width} pixels "
        f"({str(error).partition(chr(10))[0]}); {', or '.join(remedies)}"
    )


def _weights_source(name: str, folder: Path | None) -> dict[str, Any]:
    if name not in VARIANTS:
        return _timm_weights(name, folder)
    file = str(folder_weights(name, folder))
    return {"pretrained": True, "pretrained_cfg_overlay": {"file": file}}


def _timm_weights(name: str, folder: Path | None) -> dict[str, Any]:
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
