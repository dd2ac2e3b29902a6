"""The weights that a row with ``init`` starts from: another row's, as far as they are the same."""

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from segcore.errors import InputError
from segcore.model_files import build_network, load_model
from segcore.row import Run
from segcore.types import ClassTable

__all__ = ["initial_weights"]


def initial_weights(run: Run, classes: ClassTable, folder: Path) -> dict[str, Tensor]:
    """The weights of a model folder for the row's network on ``classes``.

    Where the folder's classes are others, its heads (whatever has a shape that follows the number
    of classes) are left out, to start afresh. Raises InputError where anything else does not fit.
    """
    source = load_model(folder)
    weights = source.network.state_dict()
    own, other = (_on_meta(run, len(classes) + more) for more in (0, 1))
    fresh = set[str]()
    if source.classes.names != classes.names:
        fresh = {name for name in own if own[name].shape != other[name].shape}
    names = (weights.keys() | own.keys()) - fresh
    if misfits := sorted(name for name in names if _shape(weights, name) != _shape(own, name)):
        more = f" and {len(misfits) - 3} more" if len(misfits) > 3 else ""
        raise InputError(
            f"init: the weights of {run.init} ({source.config.method} on {source.config.backbone}) "
            f"do not fit {run.method} on {run.backbone}: {', '.join(misfits[:3])}{more}; "
            "give both rows the same network"
        )
    return {name: weights[name] for name in names}


def _on_meta(run: Run, num_classes: int) -> dict[str, Tensor]:
    with torch.device("meta"):
        plain = run.model_copy(update={"pretrained": False})
        return build_network(plain, num_classes).state_dict()


def _shape(weights: Mapping[str, Tensor], name: str) -> torch.Size | None:
    return weights[name].shape if name in weights else None
