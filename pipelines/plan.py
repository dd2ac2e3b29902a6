"""What a row will need, before it is launched: parameters, memory, steps, hours, money."""

import argparse
from collections.abc import Iterator
from pathlib import Path

import torch

from pipelines.project import Project
from pipelines.stage import run_safely
from segcore import planning
from segcore.errors import InputError
from segcore.measure import count_parameters
from segcore.model_files import build_network
from segcore.row import Run
from segcore.runs import device_of
from segcore.shards import Manifest
from segcore.targets import classes_of

GIGABYTE = 1e9


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("row")
    parser.add_argument("--params", type=Path, default=Path("params.yaml"), help="the table")
    parser.add_argument("--device", choices=["cpu", "cuda"], help="of workers, if not like here")
    parser.add_argument("--memory", type=float, metavar="GB", help="of a worker's device")
    parser.add_argument("--step-seconds", type=float, metavar="S", help="else measured here")
    parser.add_argument("--price", type=float, help="of a worker's hour, in any currency")
    asked = parser.parse_args()
    run_safely(lambda: print(*plan(asked, Project(Path.cwd(), asked.params)), sep="\n"))


def plan(asked: argparse.Namespace, project: Project) -> Iterator[str]:
    """Line by line. Raises InputError where the row cannot be meant or has no training."""
    key = asked.row
    tuned = (project.run(key) / "search.json").exists()
    run = project.tuned_row(key) if tuned else project.row(key)
    if run.weights_of:
        raise InputError(f"{key} takes the weights of {run.weights_of}; plan that row")
    try:
        shards = project.require_shards(run.dataset)
        classes = Manifest.read(shards).classes
    except InputError:  # not prepared here
        shards, classes = None, project.dataset(run.dataset)[0].classes
    num_classes = len(classes_of(run, classes))
    with torch.device("meta"):
        network = build_network(run.model_copy(update={"pretrained": False}), num_classes)
    yield f"{key}: {run.method} on {run.backbone}, {num_classes} classes"
    yield f"  parameters     {count_parameters(network) / 1e6:.2f} M"
    yield from _memory(run, num_classes, asked)
    size = f"{run.crop[0]}x{run.crop[1]}"
    yield f"  steps          {run.steps} of {run.batch_size} images of {size}"
    if shards:
        images = Manifest.read(shards).split("train")["images"]
        yield f"  epochs         {run.steps * run.batch_size / images:.1f} of {images} images"
    if asked.step_seconds or shards:
        yield from _costs(run, num_classes, shards, asked)
    else:
        yield f"  time           run dvc repro prepare@{run.dataset}, or give --step-seconds"


def _memory(run: Run, num_classes: int, asked: argparse.Namespace) -> Iterator[str]:
    device = asked.device or device_of(run).type
    workers, images = run.least_workers, planning.images_at_once(run, run.least_workers)
    needed = planning.expected_memory(run, num_classes, images, workers, device)
    sharing = workers if device == "cpu" else 1  # as if all of them were on this machine
    has = asked.memory * GIGABYTE if asked.memory else (planning.memory_of(device) or 0) / sharing
    yield f"  peak memory    {needed / GIGABYTE:.2f} GB on the {device} of each of {workers}"
    if not has:
        yield "  largest batch  give --memory, the GB of a worker's device"
        return
    most = planning.most_images(run, num_classes, workers, device, int(has))
    remedy = f"set micro_batch to {most}" if most else "lower crop"
    yield (
        f"  largest batch  {most * workers}, {most} images at once in {has / GIGABYTE:.1f} GB"
        f"{'' if needed <= has else f'; now {images} do not fit: {remedy}'}"
    )


def _costs(
    run: Run, num_classes: int, shards: str | None, asked: argparse.Namespace
) -> Iterator[str]:
    workers, step, evaluations = run.least_workers, asked.step_seconds, 0.0
    if shards and not step:
        step, evaluations = planning.expected_seconds(run, num_classes, shards, workers)
    hours = (run.steps * step + evaluations) / 3600
    yield f"  time           {hours:.2f} h at {step:.3f} s a step"
    if run.search:
        trials, steps = run.search.most_trials, run.search.steps
        searching = trials * steps * step * workers / 3600
        yield f"  search         at most {searching:.2f} worker hours: {trials} trials of {steps}"
        hours += searching / workers
    if asked.price:
        yield f"  cost           {hours * workers * asked.price:.2f} at most"


if __name__ == "__main__":
    main()
