"""Rows that train for real on the dataset ``tiny``, and what comes of it."""

import copy
import hashlib
from pathlib import Path
from typing import Any

import torch

from segcore.checkpoints import Checkpoint
from segcore.row import Run
from segcore.runs import train
from segcore.training import Saved, Step

HALF = 4
"""Steps before a training is cut off, and after."""


def row(**values: Any) -> Run:
    """A small network, with everything that is random in training switched on."""
    plain = {
        "method": "fcn",
        "backbone": "mobilenetv2_035",
        "dataset": "tiny",
        "options": {"width": 16, "auxiliary_width": 16},
        "steps": 2 * HALF,
        "batch_size": 4,
        "crop": (64, 64),
        "evaluate_every": HALF,
        "save_every": HALF,
        "device": "cpu",
    }
    return Run(**(plain | values))


def losses_of(run: Run, shards: str, checkpoint: Path | None = None) -> list[float]:
    return [event.loss for event in train(run, shards, checkpoint) if isinstance(event, Step)]


def last_of(run: Run, shards: str, checkpoint: Path | None = None) -> Checkpoint:
    """The last checkpoint that a training saves."""
    saved = [event for event in train(run, shards, checkpoint) if isinstance(event, Saved)]
    return copy.deepcopy(saved[-1].checkpoint)


def hash_of(weights: dict[str, torch.Tensor]) -> str:
    digest = hashlib.sha256()
    for name, value in sorted(weights.items()):
        digest.update(name.encode() + value.contiguous().numpy().tobytes())
    return digest.hexdigest()


def calm(**values: Any) -> Run:
    """Twenty steps that rounding does not lead astray: 5e-7 between memory layouts, measured.

    A narrow backbone at a high learning rate differs by percents then, with nothing wrong: its
    channels that hardly vary are divided by next to nothing.
    """
    plain = {"backbone": "resnet10t", "learning_rate": 5e-4, "precision": "float32"}
    return row(**(plain | {"steps": 20, "evaluate_every": 20, "save_every": 20} | values))


def unequal(**values: Any) -> Run:
    """Five images a step, so two workers have two and three; void pixels make them differ more."""
    options = {"width": 16, "auxiliary_width": 16, "dropout": 0.0}
    return calm(options=options, batch_size=5, **values)
