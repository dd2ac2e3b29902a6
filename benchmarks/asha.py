"""Early stopping against none: eight trials on ``shapes``, several seeds.

All trials are trained to their end once. What asynchronous successive halving would have done is
decided over their curves by the code that decides in a search: a trial that waits and goes on has
trained bit for bit like one that never waited. Curves are kept in ``work/``, so that a measurement
that is cut off goes on with the next trial.
"""

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path

from benchmarks.process import ROOT
from benchmarks.tables import figure, machine, table, write
from pipelines.cluster.course import Course
from pipelines.cluster.proposing import Sampled
from pipelines.cluster.trials import progress
from segcore.datasets import build_dataset
from segcore.files import read_json, write_json
from segcore.preparation import prepare
from segcore.search import Search, as_trial
from segcore.tables import DatasetTable

TRIALS = 8
EVALUATIONS = 8
"""Of a trial; the second of them is the first rung."""
CURVES = ROOT / "work/asha-curves"
ROW = {
    "method": "fcn",
    "backbone": "resnet18",
    "dataset": "shapes",
    "backbone_options": {"channels": [16, 32, 64, 128]},
    "output_stride": 8,
    "options": {"width": 32, "num_convs": 1, "concat_input": False},
    "crop": [64, 64],
    "scale": [0.75, 1.5],
    "batch_size": 8,
    "optimizer": "adamw",
    "weight_decay": 0.01,
    "warmup_steps": 10,
}
SEARCH = {
    "space": {
        "learning_rate": {"loguniform": [0.0003, 0.03]},
        "weight_decay": {"loguniform": [0.0001, 0.1]},
        "photometric": {"choice": [True, False]},
    },
    "trials": TRIALS,
    "reduction": 2,
}
HEAD = """# Early stopping against none

Written by `python -m benchmarks.asha`. {trials} trials of `fcn-resnet18-shapes` (half as wide,
{steps} steps, an evaluation every {evaluate_every}), learning rate, weight decay and photometric
jitter drawn; ASHA with a grace of {grace} steps and a reduction of {reduction}, one trial at a
time. mIoU in percent, each trial's best evaluation."""
TITLES = ("seed", "best of all", "ASHA's choice", "difference", "steps of all", "steps", "share")
Curve = list[tuple[int, float]]


def search_of(algorithm: str, steps: int) -> Search:
    every = steps // EVALUATIONS
    length = {"steps": steps, "evaluate_every": every, "grace": 2 * every}
    return Search.model_validate(SEARCH | length | {"algorithm": algorithm})


def curves_of(seed: int, steps: int, scratch: Path) -> list[Curve]:
    """Every trial to its end. Their values are random ones: Optuna's TPE begins with ten."""
    search, curves = search_of("tpe", steps), list[Curve]()
    strategy = Sampled(search, seed)
    base = as_trial(ROW | {"seed": seed}, search, {})
    while proposal := strategy.propose():
        kept = CURVES / f"{steps}-steps/{seed}-{proposal.number}.json"
        if not kept.exists():
            told = progress(
                folder=str(scratch / kept.stem),
                shards=prepared(scratch),
                base=base,
                values=proposal.values,
                until=search.steps,
            )
            write_json(kept, [(int(each["step"]), each["miou"]) for each in told])
        curves.append(read_json(kept))
        print(f"seed {seed}, trial {proposal.number}: {curves[-1][-1][1]:.4f}", flush=True)
    return curves


def halved(seed: int, curves: Sequence[Curve], steps: int, scratch: Path) -> tuple[int, float]:
    """The steps that a search with early stopping takes, and the score of its choice."""
    search = search_of("asha", steps)
    course = Course(search, seed, scratch, {"CPU": 1.0}, 1, lambda event: None)
    while proposal := course.next():
        before = course.steps.get(proposal.number, 0)
        for step, miou in curves[proposal.number]:
            if before < step <= proposal.until:
                course.reported(proposal.number, {"step": step, "miou": miou, "seconds": 0.0})
        course.ended(proposal.number)
    assert course.best is not None
    return sum(course.steps.values()), course.scores[course.best]


def main(arguments: Sequence[str] | None = None) -> None:
    asked = options().parse_args(arguments)
    with tempfile.TemporaryDirectory() as place:
        rows = [_row(seed, asked.steps, Path(place)) for seed in asked.seeds]
    head = HEAD.format(**search_of("asha", asked.steps).model_dump())
    write(asked.output, head, machine("cpu", 1), table(TITLES, rows))
    print(asked.output.read_text())


def prepared(scratch: Path) -> str:
    """The dataset of the demonstration, made once."""
    if (scratch / "shards").exists():
        return str(scratch / "shards")
    dataset, raw = build_dataset("shapes", {}), scratch / "raw"
    dataset.acquire(raw, raw)
    for _ in prepare("shapes", dataset, raw, scratch / "shards", scratch / "work", DatasetTable()):
        pass
    return str(scratch / "shards")


def _row(seed: int, steps: int, scratch: Path) -> list[str]:
    curves = curves_of(seed, steps, scratch)
    best = max(miou for curve in curves for _, miou in curve)
    whole = sum(curve[-1][0] for curve in curves)
    taken, chosen = halved(seed, curves, steps, scratch)
    scores = [figure(100 * score, 2) for score in (best, chosen, best - chosen)]
    return [str(seed), *scores, str(whole), str(taken), f"{taken / whole:.0%}"]


def options() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=list(range(5)))
    parser.add_argument("--steps", type=int, default=320, help="of a trial; a multiple of 8")
    parser.add_argument("--output", type=Path, default=ROOT / "docs/results/asha.md")
    return parser


if __name__ == "__main__":
    main()
