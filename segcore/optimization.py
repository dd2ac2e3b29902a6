"""Optimizers and learning-rate schedules, by step."""

import math
from functools import partial
from typing import Literal

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
) -> optim.Optimizer:
    """SGD or AdamW over two groups: the backbone, and everything else at ``head_multiplier``."""
    backbone = {id(p) for p in model.get_submodule("backbone").parameters()}
    groups = [
        {"params": [p for p in model.parameters() if id(p) in backbone], "lr": learning_rate},
        {
            "params": [p for p in model.parameters() if id(p) not in backbone],
            "lr": learning_rate * head_multiplier,
        },
    ]
    if name == "adamw":
        return optim.AdamW(groups, lr=learning_rate, weight_decay=weight_decay)
    return optim.SGD(groups, lr=learning_rate, momentum=momentum, weight_decay=weight_decay)


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
