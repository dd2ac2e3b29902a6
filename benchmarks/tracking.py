"""What tracking costs a training: in the process that trains, and in the stage that watches it."""

import argparse
import time
from collections.abc import Sequence
from contextlib import ExitStack
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import torch

from benchmarks.process import ROOT
from benchmarks.tables import figure, machine, table, write
from pipelines.tracking import Mirror, open_store
from segcore.journal import Journal
from segcore.training import Step

STEP_SECONDS = 0.1
STEPS = 60
"""Of one round, with tracking or without; the first ten are not looked at."""

HEAD = """# What tracking costs

Written by `python -m benchmarks.tracking`. A process takes steps of {step} s on one core and writes
each into `metrics.jsonl`. The stage beside it copies them into MLflow ({store}) and samples the
machine's load. {rounds} rounds of {steps} steps with that and without, in turn.
"""


def take_steps(path: Path, steps: int) -> tuple[list[float], list[float]]:
    """Seconds of each step as a whole, and of writing it down."""
    torch.set_num_threads(1)
    matrix, whole, writing = torch.rand(512, 512), list[float](), list[float]()
    journal = Journal(path)
    begun = time.perf_counter()
    for _ in range(20):
        torch.mm(matrix, matrix)
    repeats = max(round(20 * STEP_SECONDS / (time.perf_counter() - begun)), 1)
    for number in range(1, steps + 1):
        begun = time.perf_counter()
        for _ in range(repeats):
            torch.mm(matrix, matrix)
        done = time.perf_counter()
        journal.record(Step(number, 1 / number, 0.01, STEP_SECONDS, 0.001))
        ended = time.perf_counter()
        whole.append(ended - begun)
        writing.append(ended - done)
    return whole[10:], writing[10:]


def one_round(root: Path, name: str, tracked: bool) -> tuple[list[float], list[float], float]:
    """``take_steps`` in a process of its own, and the processor seconds spent here meanwhile."""
    path = root / f"{name}.jsonl"
    store = open_store(root)
    with ExitStack() as stack:
        if tracked:
            run_id = stack.enter_context(store.run("benchmark", name, config={}))
            stack.enter_context(store.system_metrics(run_id))
            stack.enter_context(Mirror(store, run_id, path))
        before = time.process_time()
        with get_context("spawn").Pool(1) as pool:
            whole, writing = pool.apply(take_steps, (path, STEPS))
    return whole, writing, time.process_time() - before


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--output", type=Path, default=ROOT / "docs/results/tracking.md")
    asked = parser.parse_args(arguments)
    plain, tracked, writing, spent, idle = ([] for _ in range(5))
    with TemporaryDirectory() as place:
        one_round(Path(place), "warm", tracked=True)
        for number in range(asked.rounds):
            steps, _, seconds = one_round(Path(place), f"plain-{number}", tracked=False)
            plain += steps
            idle.append(seconds / STEPS)
            steps, written, seconds = one_round(Path(place), f"tracked-{number}", tracked=True)
            tracked += steps
            writing += written
            spent.append(seconds / STEPS)
    watching = max(median(spent) - median(idle), 0.0)
    rows = [
        ["a step without tracking", median(plain)],
        ["a step with it", median(tracked)],
        ["writing a step into the journal, in the process that trains", median(writing)],
        ["processor time of the stage that copies, for each step", watching],
    ]
    cells = [
        [what, figure(1000 * seconds, 3), f"{100 * seconds / STEP_SECONDS:.2f} %"]
        for what, seconds in rows
    ]
    store = "SQLite, in the project"
    head = HEAD.format(step=STEP_SECONDS, store=store, rounds=asked.rounds, steps=STEPS)
    titles = ["what", "ms", "of 0.1 s"]
    write(asked.output, head.rstrip(), machine("cpu", 1), table(titles, cells))
    print(f"written {asked.output}")


if __name__ == "__main__":
    main()
