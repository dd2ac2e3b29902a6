"""The weights that a row with ``init`` starts from: another row's, as far as they are the same."""

import re
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from segcore.errors import InputError
from segcore.model_files import LoadedModel, build_network, load_model
from segcore.row import Run
from segcore.types import ClassTable

__all__ = ["initial_weights"]

_WRAPPED = re.compile(r"backbone\.(body\.)*")
"""How far in a backbone lies: one that changes the features of another holds it as ``body``."""


def initial_weights(run: Run, classes: ClassTable, folder: Path) -> dict[str, Tensor]:
    """The weights of a model folder for the row's network on ``classes``.

    Where the folder's classes are others, its heads (whatever has a shape that follows the number
    of classes) are left out, to start afresh; where its method is another, all but the backbone,
    whatever pyramid stands on it in either row. Raises InputError where anything else does not
    fit.
    """
    source = load_model(folder)
    weights = source.network.state_dict()
    own, other = (_on_meta(run, len(classes) + more) for more in (0, 1))
    if source.config.method != run.method:
        prefix, own = _trunk(own)
        weights = _trunk(weights)[1]
        _check_fit(run, source, weights, own, "backbone")
        return {prefix + name: each for name, each in weights.items()}
    if source.classes.names != classes.names:
        fresh = {name for name in own if own[name].shape != other[name].shape}
        own, weights = (_without(fresh, each) for each in (own, weights))
    _check_fit(run, source, weights, own, "network")
    return weights


def _trunk(weights: Mapping[str, Tensor]) -> tuple[str, dict[str, Tensor]]:
    """Those of the innermost backbone, without what their names begin with, and that."""
    prefix = max((found.group() for name in weights if (found := _WRAPPED.match(name))), key=len)
    inside = [name for name in weights if name.startswith(prefix)]
    return prefix, {name.removeprefix(prefix): weights[name] for name in inside}


def _without(names: set[str], weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: each for name, each in weights.items() if name not in names}


def _check_fit(
    run: Run,
    source: LoadedModel,
    weights: Mapping[str, Tensor],
    own: Mapping[str, Tensor],
    same: str,
) -> None:
    names = weights.keys() | own.keys()
    if misfits := sorted(name for name in names if _shape(weights, name) != _shape(own, name)):
        more = f" and {len(misfits) - 3} more" if len(misfits) > 3 else ""
        raise InputError(
            f"init: the weights of {run.init} ({source.config.method} on {source.config.backbone}) "
            f"do not fit {run.method} on {run.backbone}: {', '.join(misfits[:3])}{more}; "
            f"give both rows the same {same}"
        )


def _on_meta(run: Run, num_classes: int) -> dict[str, Tensor]:
    with torch.device("meta"):
        plain = run.model_copy(update={"pretrained": False})
        return build_network(plain, num_classes).state_dict()


def _shape(weights: Mapping[str, Tensor], name: str) -> torch.Size | None:
    return weights[name].shape if name in weights else None
