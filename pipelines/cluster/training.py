"""Ray Train: the workers of one row, restarted from their last checkpoint when they die."""

import contextlib
import tempfile
from pathlib import Path
from typing import Any

import ray.train
from ray.train import Checkpoint as RayCheckpoint
from ray.train.torch import TorchConfig, TorchTrainer
from torch import Tensor

from pipelines.cluster.connection import resources
from segcore.errors import InputError
from segcore.files import read_json, write_json
from segcore.initial import initial_weights
from segcore.journal import Journal
from segcore.row import Run
from segcore.runs import device_of, train
from segcore.shards import Manifest
from segcore.training import Saved

COLLECTIVE_TIMEOUT_SECONDS = 300
RESTARTS = 2
"""How often a group of workers starts again from its last checkpoint."""


def train_row(run: Run, shards: str, name: str, storage: Path, initial: Path | None = None) -> Path:
    """Trains on the row's workers; returns the folder of the last checkpoint.

    The run goes on from its last checkpoint when workers die, or when this process did: the same
    ``name`` under the same ``storage`` is the same run. Rank 0 writes ``metrics.jsonl`` there.
    """
    folder = storage / name
    refusal = folder / "refused.json"
    refusal.unlink(missing_ok=True)
    config = {"run": run.model_dump(mode="json"), "shards": shards, "folder": str(folder)}
    config["initial"] = str(initial) if initial else ""
    trainer = TorchTrainer(
        _worker,
        train_loop_config=config,
        scaling_config=ray.train.ScalingConfig(
            num_workers=run.workers,
            use_gpu=device_of(run).type == "cuda",
            resources_per_worker=resources(run),
        ),
        torch_config=TorchConfig(timeout_s=COLLECTIVE_TIMEOUT_SECONDS),
        run_config=ray.train.RunConfig(
            name=name,
            storage_path=str(storage),
            failure_config=ray.train.FailureConfig(max_failures=RESTARTS),
            checkpoint_config=ray.train.CheckpointConfig(num_to_keep=2),
        ),
    )
    try:
        result = trainer.fit()
    except ray.train.TrainingFailedError as error:
        if refusal.exists():
            raise InputError(read_json(refusal)) from None
        raise InputError(_first_cause(error)) from error
    if refusal.exists():
        raise InputError(read_json(refusal))
    assert result.checkpoint is not None, "a training ends with a checkpoint"
    return Path(result.checkpoint.path)


def _first_cause(error: BaseException) -> str:
    """What ended a group of workers, without the layers around it."""
    lines = [line for line in str(error).splitlines() if line.strip()]
    return (
        f"the workers failed {RESTARTS + 1} times; the last words: {lines[-1] if lines else error}"
    )


def _worker(config: dict[str, Any]) -> None:
    """One rank of a training. A refusal is noted and not tried again."""
    folder = Path(config["folder"])
    refusal = folder / "refused.json"
    if refusal.exists():  # the group was restarted after a refusal: trying again cannot help
        return
    try:
        initial = Path(config["initial"]) if config["initial"] else None
        _train_reporting(Run.model_validate(config["run"]), config["shards"], folder, initial)
    except InputError as error:
        write_json(refusal, str(error))
        if ray.train.get_context().get_world_size() > 1:
            raise  # it ends the other workers, which wait for this one


def _train_reporting(run: Run, shards: str, folder: Path, initial: Path | None) -> None:
    first = ray.train.get_context().get_world_rank() == 0
    latest = ray.train.get_checkpoint()
    with contextlib.ExitStack() as stack:
        start = stack.enter_context(latest.as_directory()) if latest else None
        weights = None if start or not initial else _weights_for(run, shards, initial)
        events = train(run, shards, Path(start) if start else None, weights)
        journal: Journal | None = None
        for event in events:
            if first and journal is None:
                journal = Journal(folder / "metrics.jsonl", event.number - 1)
            if journal:
                journal.record(event)
            if isinstance(event, Saved):
                _report_checkpoint(event, first)


def _weights_for(run: Run, shards: str, initial: Path) -> dict[str, Tensor]:
    return initial_weights(run, Manifest.read(shards).classes, initial)


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
