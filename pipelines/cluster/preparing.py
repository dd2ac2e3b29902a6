"""Ray tasks that prepare shards, on whichever node is free."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import OutOfMemoryError, RayError, RayTaskError

from pipelines.cluster.connection import cluster
from pipelines.cluster.probes import blind_nodes
from segcore.errors import InputError


def on_cluster(
    function: Callable[[Any], Any], tasks: Sequence[Any], most: int
) -> Iterator[tuple[Any, Any]]:
    """Calls ``function`` on each task, on any node of the cluster that RAY_ADDRESS names.

    ``most``, a number of processes, is for one machine. Raises InputError where a node does not
    see this folder, and what the function raises.
    """
    with cluster():
        _check_shared_disk(Path.cwd())
        remote = ray.remote(num_cpus=1, max_retries=2)(function)
        waiting = {remote.remote(task): task for task in tasks}
        while waiting:
            ready, _ = ray.wait(list(waiting), num_returns=1)
            for reference in ready:
                yield waiting.pop(reference), _result(reference)


def _result(reference: Any) -> Any:
    try:
        return ray.get(reference)
    except RayTaskError as error:
        raise error.cause if isinstance(error.cause, InputError) else error from None
    except OutOfMemoryError:
        remedy = "prepare it on nodes with more, or unset RAY_ADDRESS; finished shards are kept"
        raise InputError(f"a node ran out of memory while it prepared images; {remedy}") from None
    except RayError as error:
        first = str(error).partition("\n")[0]
        raise InputError(f"a Ray task was lost ({first}); finished shards are kept") from None


def _check_shared_disk(folder: Path) -> None:
    """Raises InputError that names the nodes where raw files and shards would not be found."""
    if blind := blind_nodes(folder):
        raise InputError(
            f"{folder} is not on {', '.join(blind)}: prepare needs a disk that all nodes share; "
            "unset RAY_ADDRESS to prepare on this machine alone"
        )
