"""Everything needed to go on bit for bit: model, optimizer, schedule, position, best weights.

Random states need no place here: they are a function of (seed, step, rank), see training.py.
A checkpoint is a folder that holds one file. Both are written aside and then renamed, so what
has its name is whole, whenever the writer is killed.
"""

import os
import shutil
from dataclasses import dataclass, fields
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from torch import Tensor

from segcore.errors import InputError

STATE = "state.pt"


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
        """Writes ``folder``; a checkpoint that stands there is replaced in one move.

        One process at a time writes to a folder: what a killed one left beside it is removed.
        """
        folder.parent.mkdir(parents=True, exist_ok=True)
        for stale in folder.parent.glob(f".{folder.name}.*.part"):
            shutil.rmtree(stale)
        aside = folder.with_name(f".{folder.name}.{os.getpid()}.part")
        aside.mkdir()
        with (aside / STATE).open("wb") as file:
            torch.save({field.name: getattr(self, field.name) for field in fields(self)}, file)
            file.flush()
            os.fsync(file.fileno())
        if folder.exists():
            # A folder with content cannot be replaced at once; the one file in it can.
            (aside / STATE).replace(folder / STATE)
            aside.rmdir()
        else:
            aside.replace(folder)

    @classmethod
    def read(cls, folder: Path) -> "Checkpoint":
        """Raises InputError where the folder holds no whole checkpoint."""
        try:
            values = torch.load(folder / STATE, weights_only=True, map_location="cpu")
            return cls(**values)
        except (OSError, RuntimeError, EOFError, UnpicklingError, TypeError) as error:
            first_line = str(error).partition("\n")[0]
            message = f"{folder} is no whole checkpoint ({first_line}); delete it to start afresh"
            raise InputError(message) from None
