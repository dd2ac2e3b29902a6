"""Ray: workers that train one row, trials that search. The only file that imports ray."""

import contextlib
import logging
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

# Ray reads these while it is imported: its own values cost two seconds per report, and wait
# for ever for workers that cannot start.
os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.2")
os.environ.setdefault("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", "60")
os.environ.setdefault("RAY_TRAIN_ENABLE_STATE_TRACKING", "0")

import ray
import ray.train
import ray.tune
from ray.train import Checkpoint as RayCheckpoint
from ray.train.torch import TorchConfig, TorchTrainer
from ray.tune.search.optuna import OptunaSearch

from segcore.errors import InputError
from segcore.files import read_json, write_json
from segcore.journal import Journal
from segcore.params import Choice, Int, LogUniform, Run, Search, Uniform, with_values
from segcore.runs import device_of, train
from segcore.training import Evaluated, Saved

COLLECTIVE_TIMEOUT_SECONDS = 300
RESTARTS = 2
"""How often a group of workers starts again from its last checkpoint."""


@contextmanager
def cluster(run: Run, trials: int = 1) -> Iterator[None]:
    """Joins the cluster that RAY_ADDRESS names, else starts one on this machine for the while.

    Raises InputError at once where the row asks for more than it has."""
    started = not ray.is_initialized()
    if started:
        here = {} if "RAY_ADDRESS" in os.environ else {"_node_ip_address": "127.0.0.1"}
        ray.init(log_to_driver=False, logging_level=logging.ERROR, **here)
    for name in ("ray.train", "ray.tune", "ray.data", "optuna"):
        logging.getLogger(name).setLevel(logging.ERROR)
    try:
        _check_resources(run, trials)
        yield
    finally:
        if started:
            ray.shutdown()


def _check_resources(run: Run, trials: int) -> None:
    has = ray.cluster_resources()
    needs = {"CPU": run.workers * run.threads * trials}
    if device_of(run).type == "cuda":
        needs["GPU"] = run.workers * trials
    for kind, count in needs.items():
        if count > has.get(kind, 0):
            what = f"{run.workers} worker(s) of {run.threads} thread(s)"
            what += f" in {trials} trials side by side" if trials > 1 else ""
            raise InputError(
                f"{what} need {count} {kind}, the cluster has {has.get(kind, 0):.0f}; "
                "lower workers, threads or search.concurrent, or set RAY_ADDRESS to a larger one"
            )


def _resources(run: Run) -> dict[str, float]:
    gpu = {"GPU": 1.0} if device_of(run).type == "cuda" else {}
    return {"CPU": float(run.threads), **gpu}


def train_row(run: Run, shards: str, name: str, storage: Path) -> Path:
    """Trains on the row's workers; returns the folder of the last checkpoint.

    The run goes on from its last checkpoint when workers die, or when this process did: the same
    ``name`` under the same ``storage`` is the same run. Rank 0 writes ``metrics.jsonl`` there.
    """
    folder = storage / name
    refusal = folder / "refused.json"
    refusal.unlink(missing_ok=True)
    config = {"run": run.model_dump(mode="json"), "shards": shards, "folder": str(folder)}
    trainer = TorchTrainer(
        _worker,
        train_loop_config=config,
        scaling_config=ray.train.ScalingConfig(
            num_workers=run.workers,
            use_gpu=device_of(run).type == "cuda",
            resources_per_worker=_resources(run),
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
        _train_reporting(Run.model_validate(config["run"]), config["shards"], folder)
    except InputError as error:
        write_json(refusal, str(error))
        raise


def _train_reporting(run: Run, shards: str, folder: Path) -> None:
    first = ray.train.get_context().get_world_rank() == 0
    latest = ray.train.get_checkpoint()
    with contextlib.ExitStack() as stack:
        start = stack.enter_context(latest.as_directory()) if latest else None
        events = train(run, shards, Path(start) if start else None)
        journal: Journal | None = None
        for event in events:
            if first and journal is None:
                journal = Journal(folder / "metrics.jsonl", event.number - 1)
            if journal:
                journal.record(event)
            if isinstance(event, Saved):
                _report_checkpoint(event, first)


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


class Listener(Protocol):
    """Who is told about trials, in the process that searches."""

    def started(self, trial: str, values: dict[str, Any]) -> None: ...
    def reported(self, trial: str, step: int, miou: float) -> None: ...
    def ended(self, trial: str, status: str) -> None: ...


def search_row(
    values: dict[str, Any], run: Run, shards: str, name: str, storage: Path, listener: Listener
) -> None:
    """Tries ``run.search.trials`` settings of its space; ``values`` are those of the row.

    A trial trains in one process and reports each evaluation; ASHA (Li et al., 2020,
    arXiv:1810.05934) stops the worse ones early, and Optuna's TPE proposes the next.
    """
    assert run.search is not None
    search = run.search
    trial = ray.tune.with_resources(
        ray.tune.with_parameters(_trial, base=values, shards=shards), _resources(run)
    )
    tuner = ray.tune.Tuner(
        trial,
        tune_config=ray.tune.TuneConfig(
            num_samples=search.trials,
            max_concurrent_trials=search.concurrent,
            reuse_actors=True,  # a process imports torch once, not once per trial
            search_alg=OptunaSearch(_space(search), metric="miou", mode="max", seed=run.seed),
            scheduler=ray.tune.schedulers.ASHAScheduler(
                time_attr="step",
                metric="miou",
                mode="max",
                max_t=search.steps + 1,  # a trial that reaches max_t counts as stopped
                grace_period=search.grace,
                reduction_factor=search.reduction,
            ),
        ),
        run_config=ray.tune.RunConfig(
            name=name,
            storage_path=str(storage),
            verbose=0,
            callbacks=[_Forward(listener)],
        ),
    )
    failed = tuner.fit().errors
    if failed:
        raise InputError(f"{len(failed)} trial(s) failed; the first: {_last_line(failed[0])}")


def _trial(config: dict[str, Any], *, base: dict[str, Any], shards: str) -> None:
    run = Run.model_validate(with_values(base, config))
    for event in train(run, shards):
        if isinstance(event, Evaluated):
            ray.tune.report({"step": event.number, "miou": event.scores.miou})


def _last_line(error: BaseException) -> str:
    return [line for line in str(error).splitlines() if line.strip()][-1]


def _space(search: Search) -> dict[str, Any]:
    return {key: _domain(domain) for key, domain in search.space.items()}


def _domain(domain: Choice | Uniform | LogUniform | Int) -> Any:
    match domain:
        case Choice(choice=values):
            return ray.tune.choice(values)
        case Uniform(uniform=(low, high)):
            return ray.tune.uniform(low, high)
        case LogUniform(loguniform=(low, high)):
            return ray.tune.loguniform(low, high)
        case Int(int=(low, high)):
            return ray.tune.randint(low, high + 1)


class _Forward(ray.tune.Callback):
    def __init__(self, listener: Listener) -> None:
        self.listener = listener

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self.listener.started(trial.trial_id, trial.config)

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: Any, **info: Any
    ) -> None:
        if "miou" in result:
            self.listener.reported(trial.trial_id, result["step"], result["miou"])

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self.listener.ended(trial.trial_id, "FINISHED")

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self.listener.ended(trial.trial_id, "FAILED")
