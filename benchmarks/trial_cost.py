"""What a trial of a search costs beyond its loop of steps and evaluations.

A real search: Ray Tune on this machine, MLflow's embedded store, a checkpoint per evaluation, one
trial at a time. The first trial starts the process that the others train in; it stands apart.
"""

import argparse
import os
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.asha import ROW, SEARCH, prepared
from benchmarks.process import ROOT
from benchmarks.tables import figure, machine, table, write
from pipelines.cluster.connection import cluster
from pipelines.cluster.searching import search_row
from pipelines.progress import progress
from pipelines.stage import QUIET
from pipelines.studies import studied
from pipelines.tracking import open_store
from segcore.journal import read_lines
from segcore.row import Run
from segcore.search import Search, as_trial
from segcore.shards import Manifest

HEAD = """# What a trial costs beyond its loop

Written by `python -m benchmarks.trial_cost`. A search of {trials} trials of {steps} steps with an
evaluation every {every}, one at a time. The loop of a trial is what `metrics.jsonl` says of its
steps and evaluations; the rest is the choice of values, building network and data, checkpoints,
Ray Tune and MLflow. Goal: at most 1 second."""
TITLES = ("seconds", "median", "most")


def measured(trials: int, steps: int, every: int) -> tuple[float, list[float], list[float]]:
    """Seconds: until the first trial ended, without its loop; of each other trial; its loop."""
    plan = {"trials": trials, "steps": steps, "evaluate_every": every, "grace": every}
    search = Search.model_validate(SEARCH | plan | {"algorithm": "tpe", "concurrent": 1})
    run = Run.model_validate(as_trial(ROW, search, {}) | {"search": search.model_dump()})
    ends = list[float]()
    with tempfile.TemporaryDirectory() as place, progress("trial cost", trials, "trials") as bar:
        scratch = Path(place)
        shards = prepared(scratch)
        with cluster():
            store = open_store(scratch)
            with studied(store, "cost", "cost", run, Manifest.read(shards), scratch) as study:
                ledger = study.ledger(scratch, "trial", bar)

                def heard(event: dict[str, Any]) -> None:
                    ledger.heard(event)
                    if event["event"] == "ended":
                        ends.append(time.perf_counter())

                begun = time.perf_counter()
                values = as_trial(run.model_dump(mode="json"), search, {})
                search_row(values, run, shards, scratch, [], heard)
        loops = [_loop(scratch / f"trials/{number:03d}") for number in range(trials)]
    spans = [end - start for start, end in zip([begun, *ends], ends, strict=False)]
    costs = [span - loop for span, loop in zip(spans, loops, strict=True)]
    return costs[0], costs[1:], loops[1:]


def _loop(folder: Path) -> float:
    lines = read_lines(folder / "metrics.jsonl")
    return sum(line.get("seconds", 0.0) + line.get("evaluation_seconds", 0.0) for line in lines)


def main(arguments: Sequence[str] | None = None) -> None:
    asked = options().parse_args(arguments)
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    first, others, loops = measured(asked.trials, asked.steps, asked.every)
    rows = [
        ["the loop of a trial", figure(median(loops), 2), figure(max(loops), 2)],
        ["a trial beyond its loop", figure(median(others), 2), figure(max(others), 2)],
        ["the first trial beyond its loop", figure(first, 2), figure(first, 2)],
    ]
    head = HEAD.format(trials=asked.trials, steps=asked.steps, every=asked.every)
    write(asked.output, head, machine("cpu", 1), table(TITLES, rows))
    print(asked.output.read_text())


def options() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=8)
    parser.add_argument("--steps", type=int, default=16)
    parser.add_argument("--every", type=int, default=8)
    parser.add_argument("--output", type=Path, default=ROOT / "docs/results/trial_cost.md")
    return parser


if __name__ == "__main__":
    main()
