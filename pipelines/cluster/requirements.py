"""What a row asks of a cluster, and the refusal of what that can never give."""

import os
from collections import Counter

import ray
from ray._private.state import state

from segcore.errors import InputError
from segcore.row import Run

ROWS_AT_ONCE = "SEGCORE_ROWS_AT_ONCE"
"""Set by whoever runs several rows on one cluster, for their stages."""


def resources(run: Run) -> dict[str, float]:
    """Of one worker."""
    gpu = {"GPU": 1.0} if on_gpus(run) else {}
    return {"CPU": float(run.threads), **gpu}


def on_gpus(run: Run) -> bool:
    """What the cluster has decides, not this machine: its head may well have no GPU."""
    return run.device == "cuda" or (run.device == "auto" and capacity().get("GPU", 0) > 0)


def capacity() -> dict[str, float]:
    """What the cluster has, or could have where it starts nodes as they are needed."""
    # Ray Train asks in the same way; what an autoscaler may start has no public name.
    most = state.get_max_resources_from_cluster_config() or {}
    has = ray.cluster_resources()
    return {kind: max(most.get(kind, 0), has.get(kind, 0)) for kind in most.keys() | has.keys()}


def share(rows: int | None = None) -> dict[str, float]:
    """The part of the capacity for one of so many rows at once; in a stage, of those that run."""
    rows = rows or int(os.environ.get(ROWS_AT_ONCE, "1"))
    return {kind: count / rows for kind, count in capacity().items()}


def check_requirements(run: Run, trials: int = 1) -> None:
    """Raises InputError where the least workers of a row, ``trials`` times, can never run."""
    has, workers = capacity(), run.least_workers * trials
    if run.device == "cuda" and not has.get("GPU"):
        remedy = "set device to auto or cpu, or set RAY_ADDRESS to a cluster with GPUs"
        raise InputError(f"device is 'cuda' but the cluster has no GPU; {remedy}")
    what = f"{run.least_workers} worker(s) of {run.threads} thread(s)"
    what += f" in {trials} trials side by side" if trials > 1 else ""
    remedy = "lower workers, threads or search.concurrent, or set RAY_ADDRESS to a larger one"
    for kind, each in resources(run).items():
        if each * workers > has.get(kind, 0):
            needed = f"need {each * workers:.0f} {kind}, the cluster has {has.get(kind, 0):.0f}"
            raise InputError(f"{what} {needed}; {remedy}")
    if not _grows() and _places(run) < workers:
        needed = ", ".join(f"{count:.0f} {kind}" for kind, count in resources(run).items())
        raise InputError(
            f"{what} need {needed} each on one node, the cluster has room for {_places(run)}; "
            f"{remedy}"
        )


def _places(run: Run) -> int:
    """The workers for which the nodes have room: none spans two of them."""
    nodes = [Counter(node["Resources"]) for node in ray.nodes() if node["Alive"]]
    each = resources(run).items()
    return sum(min(int(node[kind] // count) for kind, count in each) for node in nodes)


def trials_at_once(run: Run, workers: int) -> int:
    """How many trials of so many workers this row's share of the cluster holds, at least one."""
    has, each = share(), resources(run)
    places = [int(has.get(kind, 0) // count) for kind, count in each.items()]
    if not _grows():
        places.append(_places(run))
    return max(1, min(places) // workers)


def _grows() -> bool:
    """Whether the cluster starts nodes as they are needed."""
    return bool(state.get_max_resources_from_cluster_config())


def needs(run: Run, rows: int) -> dict[str, float]:
    """What a row takes of the cluster at a time, at most, where so many rows run at once.

    A search that does not say how many trials run side by side takes its share."""
    has, mine, each = capacity(), share(rows), resources(run)
    search = run.search
    workers = max(run.most_workers, (search.concurrent or 1) * search.workers if search else 1)
    asked = {kind: min(count * workers, has.get(kind, 0)) for kind, count in each.items()}
    if search and not search.concurrent:
        asked = {kind: max(count, mine.get(kind, 0)) for kind, count in asked.items()}
    return asked
