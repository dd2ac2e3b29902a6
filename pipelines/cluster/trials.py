"""One trial of a search: a training that reports every evaluation, in this process or on workers.

A trial's folder holds its checkpoints, ``step-0000030``, and ``metrics.jsonl``. Both are there
before an evaluation is reported, so that a trial that was killed goes on bit for bit.
"""

from collections.abc import Iterator
from pathlib import Path
from shutil import rmtree
from time import perf_counter
from typing import Any

import ray.train
import ray.tune
import torch
from ray.train.torch import TorchTrainer
from ray.tune.integration.ray_train import TuneReportCallback

from pipelines.cluster.recording import (
    REFUSAL,
    checkpoint_of,
    forget,
    newest,
    noted,
    noting,
    recorded,
    step_of,
)
from pipelines.cluster.requirements import on_gpus, resources
from pipelines.cluster.training import torch_config
from pipelines.cluster.watchdog import STALL_SECONDS
from segcore.checkpoints import Checkpoint
from segcore.distributed import rank
from segcore.errors import InputError
from segcore.files import read_json, write_json
from segcore.journal import METRICS, read_lines
from segcore.measure import measure
from segcore.model_files import build_network, in_layout
from segcore.row import Run
from segcore.runs import device_of, stamp, train
from segcore.shards import Manifest
from segcore.tables import with_values
from segcore.targets import classes_of
from segcore.training import Evaluated, Saved

SLIVER = 0.01
"""CPUs of a process that only waits for its trial's workers, who give them up."""


def one_process(config: dict[str, Any], shared: dict[str, Any]) -> None:
    """A trial of one worker: all of it in the process that Ray Tune starts.

    A refusal is of this trial alone, and the search goes on without it. After anything else the
    process is not to be trusted: it ends, and the trial goes on in another one.
    """
    folder = Path(config["folder"])
    forget(folder)
    try:
        with noting(folder):
            for figures in progress(**config, **shared):
                ray.tune.report(figures)
    except InputError as error:
        ray.tune.report({"failed": str(error)})


def many_workers(config: dict[str, Any], shared: dict[str, Any]) -> None:
    """A trial of several workers: this process starts a group of them by Ray Train."""
    folder = Path(config["folder"])
    forget(folder)
    rmtree(folder / "ray", ignore_errors=True)
    run = _run_of(config["values"], shared["base"])
    trainer = TorchTrainer(
        _member,
        train_loop_config={**config, **shared},
        scaling_config=ray.train.ScalingConfig(
            num_workers=run.most_workers,
            use_gpu=on_gpus(run),
            resources_per_worker={**resources(run), "CPU": run.threads - SLIVER},
        ),
        torch_config=torch_config(shared["stall_seconds"]),
        run_config=ray.train.RunConfig(
            name=folder.name,
            storage_path=str(folder / "ray"),
            callbacks=[TuneReportCallback()],
        ),
    )
    try:
        trainer.fit()
    except ray.train.TrainingFailedError:
        if not (refusal := noted(folder, REFUSAL)):
            raise  # a process died: the trial is started again
        ray.tune.report({"failed": refusal})


def _member(config: dict[str, Any]) -> None:
    with noting(Path(config["folder"])):
        for figures in progress(**config):
            ray.train.report(figures)


def _run_of(values: dict[str, Any], base: dict[str, Any]) -> Run:
    return Run.model_validate(with_values(base, values))


def progress(
    folder: str,
    shards: str,
    base: dict[str, Any],
    values: dict[str, Any],
    until: int,
    reported: int = 0,
    source: tuple[str, int, dict[str, Any]] | None = None,
    latency: bool = False,
    stall_seconds: float = STALL_SECONDS,
) -> Iterator[dict[str, float]]:
    """Trains ``base`` with ``values`` up to the step ``until``; yields every evaluation's figures.

    Goes on from the newest checkpoint in ``folder``, else from that of another trial (``source``:
    its folder, a step, its values), else starts. Evaluations after the step ``reported`` that are
    in the folder already are told first. Every rank must take all of them.
    """
    began, place, run = perf_counter(), Path(folder), _run_of(values, base)
    first = source[1] if source else 0
    own = newest(place, first)
    start = own or (_from_other(place, *source, shards, run, base) if source else None)
    figures = {"latency_ms": _latency(place, run, shards)} if latency and not rank() else {}
    known = [line for line in read_lines(place / METRICS) if line["event"] == "evaluated"]
    for line in known:
        if own and reported < line["step"] <= step_of(own):
            yield {"step": line["step"], "miou": line["miou"], "seconds": 0.0, **figures}
    if own and step_of(own) >= until:
        return
    for event in recorded(train(run, shards, start), place, stall_seconds, keep=first):
        if isinstance(event, Evaluated):
            figures |= {"step": event.number, "miou": event.scores.miou}
        if isinstance(event, Saved):  # with every evaluation, after it
            now = perf_counter()
            yield {**figures, "seconds": round(now - began, 3)}
            began = now
        if isinstance(event, Saved) and event.number >= until:
            return


def _from_other(
    place: Path,
    folder: str,
    step: int,
    values: dict[str, Any],
    shards: str,
    run: Run,
    base: dict[str, Any],
) -> Path:
    """The checkpoint of another trial of a population, or its own, under this trial's values."""
    taken = checkpoint_of(Path(folder), step)
    if Path(folder) == place:
        return taken
    start = place / f"start-{rank()}"  # one for each worker, who would write it at once
    changed = _with_rates(Checkpoint.read(taken), _run_of(values, base), run)
    stamp(changed, run, shards).write(start)
    return start


def _with_rates(checkpoint: Checkpoint, before: Run, after: Run) -> Checkpoint:
    """The same state for other rates: it would bring its own with it.

    Groups of parameters keep their proportions (heads, biases, those that never decay).
    """
    learning = after.learning_rate / before.learning_rate
    decay = after.weight_decay / before.weight_decay if before.weight_decay else 1.0
    for group in checkpoint.state["optimizer"]["param_groups"]:
        for name, factor in (("lr", learning), ("initial_lr", learning), ("weight_decay", decay)):
            if name in group:
                group[name] *= factor
        if "momentum" in group:
            group["momentum"] = after.momentum
    schedule = checkpoint.state["schedule"]
    for name in ("base_lrs", "_last_lr"):
        schedule[name] = [rate * learning for rate in schedule[name]]
    return checkpoint


def _latency(place: Path, run: Run, shards: str) -> float:
    """Median milliseconds per image; measured once, since it is never twice the same."""
    path = place / "latency.json"
    if not path.exists():
        torch.set_num_threads(run.threads)
        network = build_network(run, len(classes_of(run, Manifest.read(shards).classes)))
        network = in_layout(network, run)
        size = run.benchmark_size or run.crop
        found = measure(network, size, device=device_of(run).type)
        write_json(path, found.as_dict()["latency_ms"]["median"])
    return float(read_json(path))
