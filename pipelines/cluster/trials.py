"""One trial of a search: a training that reports every evaluation, in this process or on workers.

A trial's folder holds its checkpoints, ``step-0000030``, and ``metrics.jsonl``. Both are there
before an evaluation is reported, so that a trial that was killed goes on bit for bit.
"""

import traceback
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from shutil import rmtree
from time import perf_counter
from typing import Any

import numpy as np
import ray.train
import ray.tune
import torch
from ray.train.torch import TorchTrainer
from ray.tune.integration.ray_train import TuneReportCallback

from pipelines.cluster.requirements import on_gpus, resources
from segcore.checkpoints import Checkpoint
from segcore.distributed import rank
from segcore.errors import InputError
from segcore.files import read_json, write_json
from segcore.journal import Journal, read_lines
from segcore.measure import measure
from segcore.model_files import build_network
from segcore.row import Run
from segcore.runs import device_of, train
from segcore.shards import Manifest
from segcore.tables import with_values
from segcore.targets import classes_of
from segcore.training import Evaluated, Event, Saved

SLIVER = 0.01
"""CPUs of a process that only waits for its trial's workers, who give them up."""


def one_process(
    config: dict[str, Any], *, base: dict[str, Any], shards: str, latency: bool
) -> None:
    """A trial of one worker: all of it in the process that Ray Tune starts."""
    try:
        for figures in progress(**config, base=base, shards=shards, latency=latency):
            ray.tune.report(figures)
    except Exception as error:  # of this trial alone: the search goes on
        ray.tune.report({"failed": _cause(error)})


def many_workers(
    config: dict[str, Any], *, base: dict[str, Any], shards: str, latency: bool
) -> None:
    """A trial of several workers: this process starts a group of them by Ray Train."""
    folder = Path(config["folder"])
    refusal = folder / "refused.json"
    refusal.unlink(missing_ok=True)
    rmtree(folder / "workers", ignore_errors=True)
    run = _run_of(config["values"], base)
    trainer = TorchTrainer(
        _member,
        train_loop_config={**config, "base": base, "shards": shards, "latency": latency},
        scaling_config=ray.train.ScalingConfig(
            num_workers=run.most_workers,
            use_gpu=on_gpus(run),
            resources_per_worker={**resources(run), "CPU": run.threads - SLIVER},
        ),
        run_config=ray.train.RunConfig(
            name="workers",
            storage_path=str(folder),
            callbacks=[TuneReportCallback()],
        ),
    )
    try:
        trainer.fit()
    except ray.train.TrainingFailedError:
        if not refusal.exists():
            raise  # a process died: the trial is started again
        ray.tune.report({"failed": read_json(refusal)})


def _member(config: dict[str, Any]) -> None:
    try:
        for figures in progress(**config):
            ray.train.report(figures)
    except Exception as error:
        write_json(Path(config["folder"]) / "refused.json", _cause(error))
        raise


def _cause(error: Exception) -> str:
    if isinstance(error, InputError):
        return str(error)
    traceback.print_exception(error)  # into the log of the process: this is no one's input
    return f"{type(error).__name__}: {error}".splitlines()[0]


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
) -> Iterator[dict[str, float]]:
    """Trains ``base`` with ``values`` up to the step ``until``; yields every evaluation's figures.

    Goes on from the newest checkpoint in ``folder``, else from that of another trial (``source``:
    its folder, a step, its values), else starts. Evaluations after the step ``reported`` that are
    in the folder already are told first. Every rank must take all of them.
    """
    began, place, run = perf_counter(), Path(folder), _run_of(values, base)
    own = _newest(place, source[1] if source else 0)
    start = own or (_from_other(place, *source, run, base) if source else None)
    figures = {"latency_ms": _latency(place, run, shards)} if latency and not rank() else {}
    known = [line for line in read_lines(place / "metrics.jsonl") if line["event"] == "evaluated"]
    for line in known:
        if own and reported < line["step"] <= _step(own):
            yield {"step": line["step"], "miou": line["miou"], "seconds": 0.0, **figures}
    if own and _step(own) >= until:
        return
    for event in _recorded(train(run, shards, start), place, source[1] if source else 0):
        if isinstance(event, Evaluated):
            figures |= {"step": event.number, "miou": _score(event)}
        if isinstance(event, Saved):  # with every evaluation, after it
            now = perf_counter()
            yield {**figures, "seconds": round(now - began, 3)}
            began = now
        if isinstance(event, Saved) and event.number >= until:
            return


def _recorded(events: Iterator[Event], place: Path, first: int) -> Iterator[Event]:
    """The events, each in the folder before it is told. Rank 0 writes: the newest checkpoint, and
    it keeps the one of the step ``first``, which others may start from."""
    with ExitStack() as stack:
        journal: Journal | None = None
        for event in events:
            if not rank():
                if journal is None:
                    journal = Journal(place / "metrics.jsonl", event.number - 1)
                    stack.enter_context(journal.file)
                journal.record(event)
            if isinstance(event, Saved) and not rank():
                event.checkpoint.write(place / f"step-{event.number:07d}")
                for older in place.glob("step-*"):
                    if _step(older) not in (first, event.number):
                        rmtree(older)
            yield event


def _score(event: Evaluated) -> float:
    if np.isnan(event.scores.miou):
        raise InputError(
            "the trial has no mIoU: the images that it is scored on hold no labelled pixel"
        )
    return event.scores.miou


def _newest(place: Path, after: int) -> Path | None:
    """The newest checkpoint past a step; one at it is no progress."""
    found = max(place.glob("step-*"), default=None)
    return found if found and _step(found) > after else None


def _step(checkpoint: Path) -> int:
    return int(checkpoint.name.removeprefix("step-"))


def _from_other(
    place: Path, folder: str, step: int, values: dict[str, Any], run: Run, base: dict[str, Any]
) -> Path:
    """The checkpoint of another trial of a population, or its own, under this trial's values."""
    name = f"step-{step:07d}"
    if Path(folder) == place:
        return place / name
    before = _run_of(values, base)
    taken = Checkpoint.read(Path(folder) / name)
    place.mkdir(parents=True, exist_ok=True)
    start = place / f"start-{rank()}"  # one for each worker, who would write it at once
    _with_rates(taken, before, run).write(start)
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
        size = run.benchmark_size or run.crop
        found = measure(network, size, device=device_of(run).type)
        write_json(path, found.as_dict()["latency_ms"]["median"])
    return float(read_json(path))
