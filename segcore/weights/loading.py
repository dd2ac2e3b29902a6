"""From a file or a URL into a model, or a message that says why not."""

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError
from urllib.parse import urlparse

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from segcore.errors import InputError
from segcore.segmenter import Segmenter
from segcore.weights.conversion import (
    Conversion,
    converted,
    is_own,
    is_torchvision,
    method_of,
    methods_like,
)
from segcore.weights.names import TORCHVISION_OPTIONS

PAGE = "docs/weights.md"
_MADE_ON = {
    "torchvision": "resnet50 or resnet101, at output_stride 8",
    "MMSegmentation": "resnet50c for R-50, resnet50 for R-50b, pyramid='joint' for FastFCN, ...",
}


def load_weights(model: Segmenter, source: Path | str) -> Conversion:
    """Loads the checkpoint of an MMSegmentation (0.x, 1.x) or torchvision model into ``model``.

    ``source`` is a file or a URL (see ``read_state``). The model must be of the checkpoint's
    method, backbone, options and class count; heads that serve training alone may be on one side
    only. Maps are resized as everywhere in this project (``align_corners=False``): published
    weights whose training used the other way (MMSegmentation's crops of 769) lose a little.
    Raises InputError, and leaves the model as it was, where anything else does not fit.
    """
    state = read_state(source)
    if is_own(state):
        raise InputError(
            f"{source} has the names of this project, not those of MMSegmentation or torchvision: "
            "segcore.model_files.load_model reads it with the files beside it, and a row that says "
            "init starts from it"
        )
    conversion = converted(state, model)
    if not conversion.complete:
        raise InputError(f"{source}: {_refusal(state, model, conversion)} [{conversion}]")
    model.load_state_dict(conversion.weights, strict=False)
    return conversion


def read_state(source: Path | str) -> dict[str, Tensor]:
    """The tensors of a checkpoint, on the CPU, under their own names.

    A file may be safetensors or torch's, whole or under ``state_dict``; no code in it is run.
    A URL is fetched into torch's hub folder once; a hash in its name (``-1167a1af.pth``) must
    agree. Raises InputError where there is no such thing.
    """
    if urlparse(str(source)).scheme in ("http", "https", "file"):
        path = _fetched(str(source))
    else:
        path = Path(source)
    if not path.is_file():
        raise InputError(f"there are no weights at {source}; give a file or a URL")
    try:
        if path.suffix == ".safetensors":
            state = load_file(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
    except UnpicklingError as error:
        raise InputError(_not_plain(source, error)) from None
    except (SafetensorError, RuntimeError, EOFError, OSError) as error:
        raise InputError(f"{source} is no whole checkpoint ({_first_line(error)})") from None
    return _tensors(source, state)


def _fetched(url: str) -> Path:
    path = Path(torch.hub.get_dir(), "checkpoints", os.path.basename(urlparse(url).path))
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        name = torch.hub.HASH_REGEX.search(path.name)
        prefix = name[1] if name else None
        try:
            torch.hub.download_url_to_file(url, str(path), prefix, progress=sys.stderr.isatty())
        except (OSError, RuntimeError) as error:
            remedy = "download it where there is a network and give the file"
            raise InputError(f"{url} cannot be had ({_first_line(error)}); {remedy}") from None
    return path


def _tensors(source: Path | str, state: object) -> dict[str, Tensor]:
    if isinstance(state, Mapping) and isinstance(state.get("state_dict"), Mapping):
        state = state["state_dict"]
    found = dict[str, Tensor]()
    for key, value in state.items() if isinstance(state, Mapping) else ():
        if isinstance(value, Tensor):
            found[str(key).removeprefix("module.")] = value  # a wrapped model's
    if not found:
        raise InputError(f"{source} holds no tensors by name, neither itself nor as state_dict")
    return found


def _not_plain(source: Path | str, error: Exception) -> str:
    return (
        f"{source} holds more than tensors and plain values ({_first_line(error)}), and loading "
        "that could run code; where you trust it, write its tensors alone: state = torch.load("
        "path, weights_only=False)['state_dict']; torch.save(state, another_path)"
    )


def _refusal(state: Mapping[str, Tensor], model: Segmenter, conversion: Conversion) -> str:
    """What the checkpoint is and what the model should be."""
    like, method = methods_like(state), method_of(model)
    library = "torchvision" if is_torchvision(state) else "MMSegmentation"
    if not like:
        return f"no checkpoint of a method that is both {library}'s and in the zoo"
    options = TORCHVISION_OPTIONS[like[0]] if library == "torchvision" else ""
    if method not in like:
        remedy = f"build that one with {options}" if options else "build that one"
        return f"a checkpoint of method {' or '.join(like)}, the model is {method}; {remedy}"
    classes = {(theirs[0], ours[0]) for theirs, ours in conversion.misshaped.values()}
    only_classes = not (conversion.missing or conversion.unexpected) and len(classes) == 1
    if only_classes and all(_is_scores(key) for key in conversion.misshaped):
        ((theirs, ours),) = classes
        return f"a checkpoint for {theirs} classes, the model has {ours}; build it for {theirs}"
    where = [*conversion.unexpected, *conversion.misshaped, *conversion.missing]
    if any(key.startswith(("backbone.", "neck.")) for key in where):
        remedy = f"build the one that it was made on ({_MADE_ON[library]})"
        return f"the checkpoint of a {method} on another backbone; {remedy}"
    remedy = f"with {options}" if options else f"with those ({PAGE} has them by family)"
    return f"the checkpoint of a {method} with other options; build it {remedy}"


def _is_scores(key: str) -> bool:
    return "conv_seg" in key or "se_layer" in key or "classifier.4" in key


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0] or type(error).__name__
