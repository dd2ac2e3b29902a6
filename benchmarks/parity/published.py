"""MMSegmentation's side of ``make parity``, run by the Python of an environment of its own.

For each case named on standard input it builds the published model with random weights and writes
its state, some images and what the model makes of them to ``<folder>/<case>.pt``.
"""

import sys
import types
from functools import partial
from pathlib import Path
from typing import Any

import mmcv
import torch
import yaml
from mmengine.config import Config
from torch import Tensor, nn

CALIBRATION = 4, 3, 96, 96


def main() -> None:
    folder = Path(sys.argv[1])
    table = yaml.safe_load(Path(__file__).with_name("cases.yaml").read_text())
    build = partial(build_model, load_registry())
    for line in sys.stdin:
        name = line.strip()
        given = outcome(build(table["cases"][name]), table["sizes"])
        torch.save(given, folder / f"{name}.pt")
        print(f"written {name}", flush=True)


def load_registry() -> Any:
    """MMSegmentation asks for a compiled mmcv before 2.2.0. None builds on this torch, and the
    models here need none of its operators, so the plain one is shown in its place."""
    mmcv.__version__ = "2.1.0"
    absent = types.ModuleType("mmcv._ext")
    absent.__getattr__ = uncompiled
    sys.modules["mmcv._ext"] = absent
    from mmseg.registry import MODELS
    from mmseg.utils import register_all_modules

    register_all_modules()
    return MODELS


def uncompiled(name: str) -> Any:
    if name.startswith("__"):  # what Python itself asks of a module
        raise AttributeError(name)

    def refuse(*_: Any, **__: Any) -> None:
        raise NotImplementedError(f"mmcv's operator {name} is not compiled")

    return refuse


def build_model(registry: Any, case: dict[str, Any]) -> Any:
    import mmseg

    config = Config.fromfile(Path(mmseg.__file__).parent / ".mim/configs" / case["config"])
    nothing = {"model.pretrained": None, "model.data_preprocessor": None}
    config.merge_from_dict(nothing | case.get("overrides", {}))
    simplify(config.model)
    return registry.build(config.model)


def simplify(node: Any) -> None:
    """BatchNorm of one process, and no weights to fetch, all the way down."""
    if isinstance(node, dict):
        if node.get("type") == "SyncBN":
            node["type"] = "BN"
        node.pop("init_cfg", None)
    inner = node.values() if isinstance(node, dict) else node
    for each in inner if isinstance(node, dict | list | tuple) else ():
        simplify(each)


def outcome(model: Any, sizes: list[list[int]]) -> dict[str, Any]:
    torch.manual_seed(0)
    randomise(model)
    images = [torch.randn(1, 3, *size) for size in sizes]
    with torch.inference_mode():
        calibrate(model)
        model.eval()
        scale_scores(model, images[0])
        outputs = [head_outputs(model, each) for each in images]
    return {"state_dict": model.state_dict(), "images": images, "outputs": outputs}


def randomise(model: nn.Module) -> None:
    """Everything, zero-initialised gates included, so that no difference hides."""
    for name, parameter in model.named_parameters():
        with torch.no_grad():
            if name.endswith("codewords"):
                parameter.normal_(std=0.3)
            elif name.endswith("encoding.0.scale"):
                parameter.uniform_(-0.05, 0)
            elif parameter.dim() > 1 and parameter[0].numel() > 1:
                parameter.normal_(std=parameter[0].numel() ** -0.5)
            elif name.endswith("bias"):
                parameter.normal_(std=0.2)
            else:  # BatchNorm's and LayerNorm's weights, gates
                parameter.uniform_(0.5, 1.0)


def calibrate(model: Any) -> None:
    """BatchNorm's statistics: those of random images, so that maps keep their scale through a
    hundred layers, then each moved at random. Averages of whole random images hardly differ:
    without a least variance those of another size would be blown up."""
    norms = [each for each in model.modules() if isinstance(each, nn.modules.batchnorm._BatchNorm)]
    for norm in norms:
        norm.momentum = 1.0
    model.train()
    head_outputs(model, torch.randn(CALIBRATION))
    for norm in norms:
        norm.running_mean += 0.2 * torch.randn_like(norm.running_mean) * norm.running_var.sqrt()
        norm.running_var *= torch.empty_like(norm.running_var).uniform_(0.7, 1.4)
        norm.running_var.clamp_(min=0.2)


def scale_scores(model: Any, images: Tensor) -> None:
    """Makes the standard deviation of the scores one, so that an absolute difference says how
    large it is."""
    scale = head_outputs(model, images)[0].std()
    heads = model.decode_head
    head = heads[-1] if isinstance(heads, nn.ModuleList) else heads
    head.conv_seg.weight /= scale
    head.conv_seg.bias /= scale


def head_outputs(model: Any, images: Tensor) -> list[Tensor]:
    """The main scores, then whatever else heads give, in MMSegmentation's order."""
    features = model.extract_feat(images)
    if isinstance(model.decode_head, nn.ModuleList):
        coarse = model.decode_head[0](features)
        outputs = [model.decode_head[1](features, coarse), coarse]
    else:
        output = model.decode_head(features)
        outputs = list(output) if isinstance(output, tuple) else [output]
    heads = getattr(model, "auxiliary_head", None)
    if heads is not None:
        heads = heads if isinstance(heads, nn.ModuleList) else [heads]
        outputs += [head(features) for head in heads]
    return outputs


if __name__ == "__main__":
    main()
