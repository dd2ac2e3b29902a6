"""Optimizers and learning-rate schedules, by step."""

import math
from collections.abc import Iterator
from functools import partial
from typing import Any, Literal

from torch import nn, optim
from torch.optim.lr_scheduler import LambdaLR


def build_optimizer(
    name: Literal["sgd", "adamw"],
    model: nn.Module,
    *,
    learning_rate: float,
    momentum: float = 0.9,
    weight_decay: float = 5e-4,
    head_multiplier: float = 1.0,
    bias_multiplier: float = 1.0,
    decay_all: bool = True,
) -> optim.Optimizer:
    """SGD or AdamW over groups of parameters that learn alike, the backbone's first.

    Outside the backbone the learning rate is ``head_multiplier`` times as high, for the biases of
    convolutions and matrices ``bias_multiplier`` times (DeepLab: 10 and 2; Chen et al., 2018,
    arXiv:1606.00915, in its Caffe form). Without ``decay_all``, biases and the parameters of
    norms have no weight decay (He et al., 2019, arXiv:1812.01187, section 3.1).
    """
    backbone = {id(each) for each in model.get_submodule("backbone").parameters()}
    groups = dict[tuple[bool, bool, bool], dict[str, Any]]()
    for module, parameter in _owned_parameters(model):
        outside = id(parameter) not in backbone
        is_bias = bias_multiplier != 1 and _is_bias(module, parameter)
        is_exempt = not decay_all and parameter.ndim <= 1
        if (key := (outside, is_bias, is_exempt)) not in groups:
            rate = learning_rate * (head_multiplier if outside else 1)
            groups[key] = {"params": [], "lr": rate * (bias_multiplier if is_bias else 1)}
            groups[key]["weight_decay"] = 0.0 if is_exempt else weight_decay
        groups[key]["params"].append(parameter)
    ordered = [groups[key] for key in sorted(groups)]
    if name == "adamw":
        return optim.AdamW(ordered, lr=learning_rate, weight_decay=weight_decay)
    return optim.SGD(ordered, lr=learning_rate, momentum=momentum, weight_decay=weight_decay)


def _owned_parameters(model: nn.Module) -> Iterator[tuple[nn.Module, nn.Parameter]]:
    """Every parameter once, with the module that holds it, in the order of ``parameters()``."""
    seen = set[int]()
    for module in model.modules():
        for parameter in module.parameters(recurse=False):
            if id(parameter) not in seen:
                seen.add(id(parameter))
                yield module, parameter


def _is_bias(module: nn.Module, parameter: nn.Parameter) -> bool:
    weight = getattr(module, "weight", None)
    is_norm = weight is None or weight.ndim <= 1
    return not is_norm and parameter is getattr(module, "bias", None)


def build_schedule(
    name: Literal["poly", "cosine", "constant"],
    optimizer: optim.Optimizer,
    *,
    steps: int,
    power: float = 0.9,
    warmup_steps: int = 0,
    min_learning_rate: float = 0.0,
) -> LambdaLR:
    """The learning rate of each step, as a share of each group's own.

    poly is (1 - step/steps)^power (ParseNet; Liu et al., 2015, arXiv:1506.04579), cosine is
    (1 + cos(pi step/steps)) / 2 (SGDR; Loshchilov & Hutter, 2017, arXiv:1608.03983, eq. 5); both
    never below ``min_learning_rate``. Warm-up multiplies that by (step + 1) / ``warmup_steps``
    (MMCV's linear form), so the curve has no jump where it ends. The first step is step 0.
    """
    shape = {"poly": partial(_poly, power=power), "cosine": _cosine, "constant": _constant}[name]

    def share(step: int, group_rate: float) -> float:
        warmth = min(1.0, (step + 1) / max(warmup_steps, 1))
        return warmth * max(shape(min(step / steps, 1.0)), min_learning_rate / group_rate)

    return LambdaLR(optimizer, [partial(share, group_rate=g["lr"]) for g in optimizer.param_groups])


def _poly(progress: float, power: float) -> float:
    return (1 - progress) ** power


def _cosine(progress: float) -> float:
    return 0.5 * (1 + math.cos(math.pi * progress))


def _constant(progress: float) -> float:
    return 1.0
