"""Ray Train: the workers of one row, restarted from their last checkpoint when they die."""

import contextlib
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import ray.train
from ray.train import Checkpoint as RayCheckpoint
from ray.train.torch import TorchConfig, TorchTrainer
from torch import Tensor

from pipelines.cluster.failures import Failures, last_line, told
from pipelines.cluster.probes import check_places
from pipelines.cluster.requirements import on_gpus, resources
from pipelines.cluster.watchdog import STALL_SECONDS, stacks_of, watched, written_stacks
from segcore.errors import InputError
from segcore.files import read_json, write_json
from segcore.initial import initial_weights
from segcore.journal import Journal
from segcore.row import Run
from segcore.runs import train
from segcore.shards import Manifest
from segcore.targets import classes_of
from segcore.training import Saved

FAILURES, REFUSAL = "failures.jsonl", "refused.json"
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
    there. ``tell`` hears of what went wrong and was mended. Raises InputError where a node does
    not see the storage or the shards, and where training goes no further.
    """
    folder = storage / name
    check_places(folder, shards)
    (folder / REFUSAL).unlink(missing_ok=True)
    begin = partial(_trainer, run, shards, name, storage, initial)
    with told(folder / FAILURES, run, tell):
        while (checkpoint := _goes_on(begin, folder)) is None:
            pass
    return checkpoint


def _goes_on(begin: Callable[[], TorchTrainer], folder: Path) -> Path | None:
    """The last checkpoint of a training that ended; none where it failed after a new one."""
    reached = _last_step(folder)
    refusal = folder / REFUSAL
    try:
        checkpoint = begin().fit().checkpoint
    except ray.train.TrainingFailedError as error:
        if not refusal.exists():
            if _last_step(folder) == reached:
                raise InputError(_why(error, folder)) from error
            return None
        checkpoint = None
    if refusal.exists():
        raise InputError(read_json(refusal))
    assert checkpoint is not None, "a training ends with a checkpoint"
    return Path(checkpoint.path)


def _trainer(run: Run, shards: str, name: str, storage: Path, initial: Path | None) -> TorchTrainer:
    folder, gpus = storage / name, on_gpus(run)
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
        # Longer than the watchdog's time, which knows where a worker hangs; this one does not.
        torch_config=TorchConfig(timeout_s=round(STALL_SECONDS) + 60),
        run_config=ray.train.RunConfig(
            name=name,
            storage_path=str(storage),
            failure_config=ray.train.FailureConfig(max_failures=RESTARTS),
            checkpoint_config=ray.train.CheckpointConfig(num_to_keep=2),
            callbacks=[Failures(folder / FAILURES)],
        ),
    )


def _last_step(folder: Path) -> str:
    """The newest checkpoint's name; names sort by step."""
    return max((path.name for path in folder.glob("step-*")), default="")


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
    refusal = folder / REFUSAL
    if refusal.exists():  # the group was restarted after a refusal: trying again cannot help
        return
    context = ray.train.get_context()
    stacks = stacks_of(folder, context.get_world_rank())
    try:
        initial = Path(config["initial"]) if config["initial"] else None
        run = Run.model_validate(config["run"])
        with watched(stacks, config["stall_seconds"]) as alive:
            _train_reporting(run, config["shards"], folder, initial, alive)
    except InputError as error:
        write_json(refusal, str(error))
        if context.get_world_size() > 1:
            raise  # it ends the other workers, which wait for this one


def _train_reporting(
    run: Run, shards: str, folder: Path, initial: Path | None, alive: Callable[[], None]
) -> None:
    first = ray.train.get_context().get_world_rank() == 0
    latest = ray.train.get_checkpoint()
    with contextlib.ExitStack() as stack:
        start = stack.enter_context(latest.as_directory()) if latest else None
        weights = None if start or not initial else _weights_for(run, shards, initial)
        events = train(run, shards, Path(start) if start else None, weights)
        journal: Journal | None = None
        for event in events:
            alive()
            if first and journal is None:
                journal = Journal(folder / "metrics.jsonl", event.number - 1)
            if journal:
                journal.record(event)
            if isinstance(event, Saved):
                _report_checkpoint(event, first)
                alive()


def _weights_for(run: Run, shards: str, initial: Path) -> dict[str, Tensor]:
    return initial_weights(run, classes_of(run, Manifest.read(shards).classes), initial)


def _report_checkpoint(event: Saved, first: bool) -> None:
    """Every rank reports, a barrier; rank 0's checkpoint goes to the storage of the run."""
    if not first:
        ray.train.report({"step": event.number})
        return
    with tempfile.TemporaryDirectory() as scratch:
        local = Path(scratch) / "checkpoint"
        event.checkpoint.write(local)
        ray.train.report(
            {"step": event.number},
            checkpoint=RayCheckpoint.from_directory(local),
            checkpoint_dir_name=f"step-{event.number:07d}",
        )
