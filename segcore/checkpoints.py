"""Everything needed to go on bit for bit: states, position, the best weights so far.

Random states need no place here: they are a function of (seed, step, rank), see training.py.
A checkpoint is a folder that holds one file. Both are written aside and then renamed, so what
has its name is whole, whenever the writer is killed.
"""

import math
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from segcore.distributed import rank
from segcore.errors import InputError

STATE = "state.pt"


class Kept(NamedTuple):
    """The weights of one evaluation; rank 0 alone holds them."""

    step: int
    miou: float
    weights: dict[str, Tensor] | None


def with_new(
    kept: tuple[Kept, ...], step: int, miou: float, network: nn.Module, count: int
) -> tuple[Kept, ...]:
    """The best ``count`` of those kept and of ``network`` as it is now, the best one first; of
    equal ones the earlier."""
    worst = kept[-1].miou if len(kept) == count else -math.inf
    if not miou > worst:
        return kept
    new = Kept(step, miou, _copy_of(network))
    return tuple(sorted([*kept, new], key=lambda each: -each.miou)[:count])


def _copy_of(network: nn.Module) -> dict[str, Tensor] | None:
    """The weights on the CPU, contiguous; rank 0 alone keeps them."""
    if rank():
        return None
    weights = network.state_dict()
    return {k: v.detach().to("cpu", copy=True).contiguous() for k, v in weights.items()}


@dataclass(frozen=True)
class Checkpoint:
    """The state after ``step`` steps, and the evaluated weights that are ``kept``, best first.

    ``state`` holds tensors and plain values only, so that it loads without unpickling code.
    ``stale`` evaluations have passed since the best one. ``of`` names the configuration and the
    data of the training.
    """

    step: int
    state: dict[str, Any]
    kept: tuple[Kept, ...] = ()
    stale: int = 0
    of: str = ""

    @property
    def best_miou(self) -> float:
        return self.kept[0].miou if self.kept else -math.inf

    @property
    def best_weights(self) -> dict[str, Tensor] | None:
        return self.kept[0].weights if self.kept else None

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
            torch.save(vars(self) | {"kept": [tuple(each) for each in self.kept]}, file)
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
            return cls(**values | {"kept": tuple(Kept(*each) for each in values["kept"])})
        except (OSError, RuntimeError, EOFError, UnpicklingError, TypeError, KeyError) as error:
            first_line = str(error).partition("\n")[0]
            message = f"{folder} is no whole checkpoint ({first_line}); delete it to start afresh"
            raise InputError(message) from None
