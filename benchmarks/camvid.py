"""CamVid from nothing: every method on one backbone, with curves.

All of it through ``segcore`` alone, so that a GPU machine needs neither Ray nor MLflow nor DVC.
Each method keeps a journal and its last checkpoint in ``--work``: a measurement that is cut off
goes on there, and methods that are done are not trained again.
"""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from statistics import mean, median
from typing import Any

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.process import ROOT
from benchmarks.tables import figure, machine, table, write
from segcore.files import written_whole
from segcore.journal import Journal, read_lines
from segcore.measure import count_parameters
from segcore.model_files import build_network
from segcore.models import list_methods, method_class
from segcore.row import Run
from segcore.runs import device_of, train
from segcore.shards import Manifest
from segcore.targets import SEGFIX
from segcore.training import Saved

RECIPE: dict[str, Any] = {
    "crop": [352, 352],
    "scale": [0.5, 2.0],
    "batch_size": 16,
    "optimizer": "adamw",
    "learning_rate": 0.001,
    "weight_decay": 0.01,
    "warmup_steps": 100,
}
"""For all alike, tuned for none."""
EVALUATIONS = 20
DILATED = {4, 8}
"""The strides at which a network of output stride 8 still has features."""
BLUE, GREY, ORANGE = "#1f6fb2", "#c3c9d2", "#c8511b"
COLUMNS = 4
TITLES = ("method", "output stride", "M parameters", "best mIoU", "at step", "last", "images/s")

HEAD = """# CamVid from nothing

Written by `python -m benchmarks.camvid`. Each method in its published form on {backbone}, random
weights, {steps} steps of {batch_size} crops of {crop}, one recipe for all ({optimizer}, learning
rate {learning_rate:g}) and one seed ({seed}); {evaluations} evaluations on the {images} images of
the validation split, whole, at a single scale. mIoU in percent. The test split is not used.
images/s are of a training step with its loading, the median.

![validation mIoU and training loss by step]({picture})"""


@dataclass(frozen=True)
class Course:
    """What a method's journal says: evaluations as (step, mIoU), losses and seconds by step."""

    run: Run
    stride: int
    parameters: int
    evaluations: list[tuple[int, float]]
    losses: list[tuple[int, float]]
    seconds: list[float]

    @property
    def best(self) -> tuple[int, float]:
        return max(self.evaluations, key=lambda each: each[1])

    def cells(self) -> list[str]:
        step, miou = self.best
        return [
            self.run.method,
            str(self.stride),
            figure(self.parameters / 1e6, 1),
            figure(100 * miou, 2),
            str(step),
            figure(100 * self.evaluations[-1][1], 2),
            figure(self.run.batch_size / median(self.seconds), 1),
        ]

    def mean_losses(self) -> list[tuple[int, float]]:
        """Of the steps before each evaluation."""
        every = self.run.evaluate_every
        parts = [
            (end, [loss for step, loss in self.losses if end - every < step <= end])
            for end, _ in self.evaluations
        ]
        return [(end, mean(losses)) for end, losses in parts if losses]


def compared() -> list[str]:
    """All methods but the one that corrects another's labels."""
    return [method for method in list_methods() if method != SEGFIX]


def run_of(method: str, asked: argparse.Namespace) -> Run:
    """The row: at stride 8 where the method has all that it reads there."""
    dilated = set(method_class(method).needed_strides) <= DILATED
    return Run.model_validate(
        RECIPE
        | {
            "method": method,
            "backbone": asked.backbone,
            "dataset": "camvid",
            "output_stride": 8 if dilated else None,
            "steps": asked.steps,
            "evaluate_every": max(1, asked.steps // EVALUATIONS),
            "save_every": max(1, asked.steps // EVALUATIONS),
            "device": asked.device,
            "threads": asked.threads,
            "loader_workers": asked.loader_workers,
            "seed": asked.seed,
        }
    )


def trained(run: Run, shards: str, folder: Path) -> Course:
    """Trains to the end, from where an earlier attempt came to."""
    path, checkpoint = folder / "metrics.jsonl", folder / "checkpoint"
    known = [line["step"] for line in read_lines(path) if line["event"] == "evaluated"]
    if run.steps not in known:
        events = train(run, shards, checkpoint if checkpoint.exists() else None)
        first = next(events)
        journal = Journal(path, first.number - 1)
        with journal.file:
            for event in chain([first], events):
                journal.record(event)
                if isinstance(event, Saved):
                    event.checkpoint.write(checkpoint)
    return course_of(run, shards, path)


def course_of(run: Run, shards: str, path: Path) -> Course:
    lines = read_lines(path)
    steps = [line for line in lines if line["event"] == "step"]
    with torch.device("meta"):
        network = build_network(run, len(Manifest.read(shards).classes))
    return Course(
        run,
        network.backbone.coarsest_stride,
        count_parameters(network),
        [(line["step"], line["miou"]) for line in lines if line["event"] == "evaluated"],
        [(line["step"], line["loss"]) for line in steps if "loss" in line],
        [line["seconds"] for line in steps],
    )


def draw(courses: Sequence[Course], path: Path) -> None:
    """A panel per method: its mIoU in blue before all others in grey, its loss in orange."""
    rows = -(-len(courses) // COLUMNS)
    page = Figure(figsize=(3.2 * COLUMNS, 2.4 * rows), dpi=110, layout="constrained")
    panels = page.subplots(rows, COLUMNS, sharex=True, sharey=True, squeeze=False).ravel()
    for panel, course in zip(panels, courses, strict=False):
        for other in courses:
            panel.plot(*_percent(other), c=GREY, lw=0.8)
        panel.plot(*_percent(course), c=BLUE, lw=2)
        panel.set_title(f"{course.run.method}  {100 * course.best[1]:.1f}", size=10)
        _draw_losses(panel.twinx(), course)
    for panel in panels[max(0, len(courses) - COLUMNS) : len(courses)]:
        panel.tick_params(labelbottom=True)  # below some of them there is no other one
    for panel in panels[len(courses) :]:
        panel.axis("off")
    page.supxlabel("step")
    page.supylabel("validation mIoU % (blue; others grey), training loss (orange, from 0)")
    with written_whole(path) as aside:  # no software version inside
        page.savefig(aside, format="png", metadata={"Software": None})


def _percent(course: Course) -> tuple[list[int], list[float]]:
    return [step for step, _ in course.evaluations], [100 * miou for _, miou in course.evaluations]


def _draw_losses(chart: Axes, course: Course) -> None:
    points = course.mean_losses()
    chart.plot([step for step, _ in points], [loss for _, loss in points], c=ORANGE, lw=1.2)
    chart.set_ylim(bottom=0)
    chart.tick_params(axis="y", colors=ORANGE, labelsize=7)


def main(arguments: Sequence[str] | None = None) -> None:
    asked = options().parse_args(arguments)
    runs = [run_of(method, asked) for method in asked.methods or compared()]
    device = device_of(runs[0])
    images = Manifest.read(asked.shards).split("val")["images"]
    courses = list[Course]()
    for run in runs:
        name = f"{run.method}-{run.backbone}-{run.recipe_fingerprint()}"
        courses.append(trained(run, asked.shards, asked.work / name))
        print(f"| {' | '.join(courses[-1].cells())} |", flush=True)
    courses.sort(key=lambda course: -course.best[1])
    picture = asked.output.with_suffix(".png")
    draw(courses, picture)
    facts = {"images": images, "picture": picture.name, "evaluations": EVALUATIONS}
    head = HEAD.format(**runs[0].model_dump() | {"crop": "x".join(map(str, runs[0].crop))} | facts)
    rows = [course.cells() for course in courses]
    write(asked.output, head, machine(device.type, asked.threads), table(TITLES, rows))
    print(f"written {asked.output} and {picture}")


def options() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("methods", nargs="*", metavar="METHOD", help="all of them unless named")
    parser.add_argument("--shards", default=str(ROOT / "data/shards/camvid"))
    parser.add_argument("--backbone", default="resnet18")
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="auto", choices=["auto", "cpu", "cuda"])
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--loader-workers", type=int, default=8)
    parser.add_argument("--work", type=Path, default=ROOT / "work/benchmark-camvid")
    parser.add_argument("--output", type=Path, default=ROOT / "docs/results/camvid.md")
    return parser


if __name__ == "__main__":
    main()
