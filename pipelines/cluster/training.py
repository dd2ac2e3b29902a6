"""Ray Train: the workers of one row, restarted from their last checkpoint when they die."""

import socket
from collections.abc import Callable
from functools import partial
from pathlib import Path
from shutil import rmtree
from typing import Any

import ray.train
from ray.exceptions import RayActorError
from ray.train.torch import TorchConfig, TorchTrainer
from torch import Tensor

from pipelines.beside import begun
from pipelines.cluster.failures import Failures, last_line
from pipelines.cluster.probes import check_places
from pipelines.cluster.recording import REFUSAL, forget, newest, noted, noting, recorded
from pipelines.cluster.requirements import check_requirements, on_gpus, resources
from pipelines.cluster.telling import told
from pipelines.cluster.watchdog import STALL_SECONDS, written_stacks
from segcore.errors import InputError
from segcore.initial import initial_weights
from segcore.row import Run
from segcore.runs import train
from segcore.shards import Manifest
from segcore.targets import classes_of

FAILURES = "failures.jsonl"
RESTARTS = 2
"""How often a group of workers starts again from the same checkpoint."""
RESIZE_SECONDS = 30.0
"""Between two looks whether an elastic group could be larger."""


def train_row(
    run: Run,
    shards: str,
    name: str,
    storage: Path,
    initial: Path | None = None,
    tell: Callable[[str], None] = print,
) -> Path:
    """Trains on the row's workers; returns the folder of the last checkpoint.

    The run goes on from its last checkpoint when workers or nodes die, or when this process did:
    the same ``name`` under the same ``storage`` is the same run. Rank 0 writes ``metrics.jsonl``
    there. ``tell`` hears of what went wrong and was mended. Raises InputError where the cluster
    has less than the row asks for, where a node does not see the storage or the shards, and where
    training goes no further.
    """
    check_requirements(run)
    folder = storage / name
    check_places(folder, shards)
    forget(folder)
    begin = partial(_trainer, run, shards, folder, initial)
    with told(folder / FAILURES, run, tell):
        while not _ends(begin, folder):
            pass
    checkpoint = newest(folder)
    assert checkpoint is not None, "a training ends with a checkpoint"
    return checkpoint


def _ends(begin: Callable[[], TorchTrainer], folder: Path) -> bool:
    """Whether a training comes to its end; False where it failed after a new checkpoint."""
    reached = newest(folder)
    rmtree(folder / "ray", ignore_errors=True)  # what Ray Train remembers; all is in the folder
    try:
        # In the main thread Ray Train would answer Ctrl-C in its own way, with the status of
        # success, and would go on doing so afterwards.
        begun(begin().fit, "ray train").result()
        failure = None
    except (ray.train.TrainingFailedError, RayActorError) as error:
        failure = error
    if refusal := noted(folder, REFUSAL):
        raise InputError(refusal)
    if failure and newest(folder) == reached:
        raise InputError(_why(failure, folder)) from failure
    return failure is None


def _trainer(run: Run, shards: str, folder: Path, initial: Path | None) -> TorchTrainer:
    gpus = on_gpus(run)
    placed = run.model_copy(update={"device": "cuda" if gpus else "cpu"})
    config = {
        "run": placed.model_dump(mode="json"),
        "shards": shards,
        "folder": str(folder),
        "initial": str(initial) if initial else "",
        "stall_seconds": STALL_SECONDS,
    }
    return TorchTrainer(
        _worker,
        train_loop_config=config,
        scaling_config=ray.train.ScalingConfig(
            num_workers=run.workers,
            use_gpu=gpus,
            resources_per_worker=resources(run),
            elastic_resize_monitor_interval_s=RESIZE_SECONDS,
        ),
        torch_config=torch_config(STALL_SECONDS),
        run_config=ray.train.RunConfig(
            name=folder.name,
            storage_path=str(folder / "ray"),
            failure_config=ray.train.FailureConfig(max_failures=RESTARTS),
            callbacks=[Failures(folder / FAILURES)],
        ),
    )


def torch_config(stall_seconds: float) -> TorchConfig:
    """Waits longer than the watchdog, which knows where a worker hangs; this one does not."""
    return TorchConfig(timeout_s=round(stall_seconds) + 60)


def _why(error: BaseException, folder: Path) -> str:
    message = f"the workers failed {RESTARTS + 1} times without a new checkpoint; the last words: "
    message += last_line(error)
    if stacks := written_stacks(folder):
        message += (
            f"; some made no progress for {STALL_SECONDS:.0f} s, see {stacks[0].parent}; raise "
            "SEGCORE_STALL_SECONDS where a step or an evaluation may take longer"
        )
    return message


def _worker(config: dict[str, Any]) -> None:
    """One rank of a training. A refusal is noted and not tried again."""
    folder = Path(config["folder"])
    if not folder.is_dir():  # a node that joined after all others were asked
        node = socket.gethostname()
        raise InputError(f"{node} does not see {folder}: workers need a disk that all nodes share")
    if noted(folder, REFUSAL):  # the group was restarted after a refusal: trying again cannot help
        return
    try:
        with noting(folder):
            _train(Run.model_validate(config["run"]), folder, config)
    except InputError:
        if ray.train.get_context().get_world_size() > 1:
            raise  # it ends the other workers, which wait for this one


def _train(run: Run, folder: Path, config: dict[str, Any]) -> None:
    start, shards = newest(folder), config["shards"]
    initial = Path(config["initial"]) if config["initial"] and not start else None
    weights = _weights_for(run, shards, initial) if initial else None
    for _ in recorded(train(run, shards, start, weights), folder, config["stall_seconds"]):
        pass


def _weights_for(run: Run, shards: str, initial: Path) -> dict[str, Tensor]:
    return initial_weights(run, classes_of(run, Manifest.read(shards).classes), initial)
