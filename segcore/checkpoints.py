"""Everything needed to go on bit for bit: model, optimizer, schedule, position, best weights.

Random states need no place here: they are a function of (seed, step, rank), see training.py.
A checkpoint is a folder, written aside and then renamed, so one that has its name is whole.
"""

import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from segcore.errors import InputError

STATE = "state.pt"
BEST = "best.safetensors"


@dataclass(frozen=True)
class Checkpoint:
    """The state after ``step`` steps, and the weights that scored best so far.

    ``state`` holds tensors and plain values only, so that it loads without unpickling code.
    """

    step: int
    state: dict[str, Any]
    best_miou: float = float("-inf")
    best_weights: dict[str, Tensor] | None = None

    def write(self, folder: Path) -> None:
        """Writes ``folder``; one that stands there is replaced when the new one is whole."""
        aside = folder.with_name(f".{folder.name}.{os.getpid()}.part")
        shutil.rmtree(aside, ignore_errors=True)
        aside.mkdir(parents=True)
        values = {"step": self.step, "best_miou": self.best_miou, "state": self.state}
        torch.save(values, aside / STATE)
        if self.best_weights is not None:
            save_file(self.best_weights, aside / BEST)
        for path in aside.iterdir():
            _flush(path)
        shutil.rmtree(folder, ignore_errors=True)
        aside.replace(folder)

    @classmethod
    def read(cls, folder: Path) -> "Checkpoint":
        """Raises InputError where the folder holds no whole checkpoint."""
        try:
            values = torch.load(folder / STATE, weights_only=True, map_location="cpu")
        except (FileNotFoundError, RuntimeError, EOFError) as error:
            message = f"{folder} is no whole checkpoint ({error}); delete it to start afresh"
            raise InputError(message) from None
        best = load_file(folder / BEST) if (folder / BEST).exists() else None
        return cls(values["step"], values["state"], values["best_miou"], best)


def _flush(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())
