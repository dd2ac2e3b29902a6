"""Published weights under our names: a renaming by rules, checked by shape."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from segcore.backbones import Backbone, JointPyramid
from segcore.errors import InputError
from segcore.segmenter import Segmenter
from segcore.weights.names import LAYERS, MMSEGMENTATION, TORCHVISION

Rule = tuple[re.Pattern[str], str]
Shapes = tuple[tuple[int, ...], tuple[int, ...]]

_TRAINING_ONLY = ("auxiliary", "presence")
_MAIN = ("decode_head", "classifier")
_OWN_TRUNKS = ("backbone.body.", "backbone.stages.")


@dataclass(frozen=True)
class Conversion:
    """What of a checkpoint fits a model, and what does not.

    ``weights`` has the model's names. ``missing`` are the model's names, too, ``unexpected`` the
    checkpoint's; ``misshaped`` gives for a name of the checkpoint its shape and the model's.
    ``left_out`` are the parts of heads for training that one side alone has: no fault.
    """

    weights: dict[str, Tensor]
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    misshaped: dict[str, Shapes]
    left_out: tuple[str, ...]

    @property
    def complete(self) -> bool:
        return not (self.missing or self.unexpected or self.misshaped)

    def __str__(self) -> str:
        shapes = [f"{key} {_size(a)} for {_size(b)}" for key, (a, b) in self.misshaped.items()]
        parts = {
            "missing": self.missing,
            "unexpected": self.unexpected,
            "of another shape": shapes,
            "only for training, left out": self.left_out,
        }
        said = [f"{len(names)} {what} ({_some(names)})" for what, names in parts.items() if names]
        return "; ".join([f"{len(self.weights)} tensors fit", *said])


def converted(state: Mapping[str, Tensor], model: Segmenter) -> Conversion:
    """The state of an MMSegmentation or torchvision model under ``model``'s names.

    Nothing is loaded. Shapes must agree but for dimensions of one. Raises InputError on a method
    that neither library publishes.
    """
    rules = _rules(_table(state, method_of(model)), *_places(model))
    ours, claimed = model.state_dict(), set[str]()
    weights, misshaped = dict[str, Tensor](), dict[str, Shapes]()
    unexpected, left_out = list[str](), list[str]()
    for key, tensor in state.items():
        name = renamed(key, rules)
        claimed.add(name)
        if name not in ours:
            (left_out if name.startswith(_TRAINING_ONLY) else unexpected).append(key)
        elif _squeezed(tensor) != _squeezed(ours[name]):
            misshaped[key] = (tuple(tensor.shape), tuple(ours[name].shape))
        else:
            weights[name] = reordered(key, tensor).reshape(ours[name].shape)
    missing = list[str]()
    for name in ours.keys() - claimed:
        if not name.endswith(".num_batches_tracked"):  # which older checkpoints lack
            (left_out if name.startswith(_TRAINING_ONLY) else missing).append(name)
    return Conversion(
        weights, tuple(sorted(missing)), tuple(unexpected), misshaped, tuple(sorted(left_out))
    )


def renamed(key: str, rules: Sequence[Rule]) -> str:
    """The name that the first fitting rule gives; empty where none fits."""
    if (rule := _fitting(key, rules)) is None:
        return ""
    pattern, ours = rule
    found = pattern.match(key)
    assert found
    rest = [LAYERS.get(part, part) for part in key[found.end() :].split(".")]
    return ours.format(*found.groups()) + ".".join(rest)


def reordered(key: str, tensor: Tensor) -> Tensor:
    """torchvision joins the whole image's average last, MMSegmentation and we join it first."""
    if key != "classifier.0.project.0.weight":
        return tensor
    return torch.roll(tensor, tensor.shape[0], dims=1)


def methods_like(state: Mapping[str, Tensor]) -> list[str]:
    """The methods with a name for all that is in the checkpoint, and for the least that is not."""
    unused = dict[str, int]()
    for method, table in _tables(state).items():
        rules = _rules(table, "trunk", "neck")
        used = {_fitting(key, rules) for key in state}
        if None not in used:
            own = {rule for rule in rules if rule[0].pattern.startswith(_MAIN)}
            unused[method] = len(own - used)
    return [method for method, count in unused.items() if count == min(unused.values())]


def method_of(model: Segmenter) -> str:
    return type(model).__module__.rpartition(".")[2]


def is_own(state: Mapping[str, Tensor]) -> bool:
    """Whether the names are those that models of this project give their weights."""
    theirs = is_torchvision(state) or any(key.startswith("decode_head.") for key in state)
    return not theirs and any(key.startswith(_OWN_TRUNKS) for key in state)


def is_torchvision(state: Mapping[str, Tensor]) -> bool:
    return any(key.startswith("classifier.") for key in state)


def _tables(state: Mapping[str, Tensor]) -> dict[str, str]:
    return TORCHVISION if is_torchvision(state) else MMSEGMENTATION


def _table(state: Mapping[str, Tensor], method: str) -> str:
    tables = _tables(state)
    if method not in tables:
        library = "torchvision" if is_torchvision(state) else "MMSegmentation"
        raise InputError(
            f"{library} publishes no weights for method {method}; it does for {', '.join(tables)}"
        )
    return tables[method]


@cache
def _rules(table: str, trunk: str, neck: str) -> tuple[Rule, ...]:
    rules = list[Rule]()
    for line in table.split("\n"):
        if line:
            theirs, ours = line.split()
            pattern = re.escape(theirs).replace(r"\*", r"([^.]+)") + r"(?=\.|$)"
            ours = ours.replace("{trunk}", trunk).replace("{neck}", neck).replace("*", "{}")
            rules.append((re.compile(pattern), ours))
    return tuple(rules)


def _fitting(key: str, rules: Sequence[Rule]) -> Rule | None:
    return next((rule for rule in rules if rule[0].match(key)), None)


def _places(model: Segmenter) -> tuple[str, str]:
    """Where the timm network is, and the JPU if there is one, within backbones around backbones."""
    path, neck, inner = "backbone", "", model.backbone
    while isinstance(inner, Backbone) and hasattr(inner, "body"):
        if isinstance(inner, JointPyramid):
            neck = path
        path, inner = f"{path}.body", inner.body
    return path, neck


def _squeezed(tensor: Tensor) -> list[int]:
    return [length for length in tensor.shape if length != 1]


def _size(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape)) or "scalar"


def _some(names: Sequence[str]) -> str:
    return ", ".join([*names[:3], *(["..."] if len(names) > 3 else [])])
