"""What plans say of training's peak memory, beside what training takes.

Each is measured in a process of its own. On a CPU glibc's allocator is told to give back what is
freed: what it would keep in reserve is no part of a plan.
"""

import argparse
import os
from collections.abc import Sequence
from pathlib import Path

import torch

from benchmarks.memory import DILATED, alone
from benchmarks.process import ROOT
from benchmarks.tables import figure, machine, table, write
from segcore.backbones import list_backbones
from segcore.gradients import Updates
from segcore.losses import build_criterion
from segcore.memory import peak_memory
from segcore.model_files import build_network
from segcore.models import list_methods, method_class
from segcore.optimization import build_optimizer
from segcore.planning import expected_memory
from segcore.row import Run
from segcore.training import prepare_model
from segcore.types import Batch

CLASSES = 19
FRUGAL = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}

HEAD = """# Planned memory beside measured

Written by `python -m benchmarks.planning`. The most memory in 10^6 bytes that training holds:
network, gradients, optimizer, activations, losses; two steps of {images} images of {size},
backbone {backbone} (stride 8, its own where a method needs those), cross entropy, SGD with
momentum, {classes} classes. Planned: by `segcore.planning`, without taking the memory. Ratios are
planned to measured.
"""


def row(name: str, backbone: str, size: Sequence[int], images: int) -> Run:
    stride = 8 if set(method_class(name).needed_strides) <= DILATED else None
    values = {"method": name, "backbone": backbone, "dataset": "shapes", "output_stride": stride}
    lengths = {"steps": 2, "evaluate_every": 2, "save_every": 2}
    return Run.model_validate({**values, **lengths, "batch_size": images, "crop": list(size)})


def planned(run: Run, device: str) -> int:
    return expected_memory(run, CLASSES, run.batch_size, 1, device)


def measured(run: Run, device: str) -> int:
    where = torch.device(device)
    list_backbones()  # loads timm, which is not what a training takes

    def train() -> None:
        network = prepare_model(build_network(run, CLASSES), where)
        optimizer = build_optimizer("sgd", network, learning_rate=0.01)
        precision = torch.bfloat16 if where.type == "cuda" else torch.float32
        criterion = build_criterion(run.loss)
        updates = Updates(network, criterion, optimizer, precision=precision)
        images = torch.randint(256, (run.batch_size, 3, *run.crop), dtype=torch.uint8)
        labels = images[:, 0] % CLASSES
        for number in (1, 2):
            updates.take(Batch(images, labels, ("",) * run.batch_size), number)

    return peak_memory(train, where)


def main(arguments: Sequence[str] | None = None) -> None:
    asked = options().parse_args(arguments)
    os.environ.update(FRUGAL)  # of the processes that measure
    size = [int(side) for side in asked.size.split("x")]
    rows = list[list[str]]()
    for name in asked.methods or list_methods():
        run = row(name, asked.backbone, size, asked.images)
        plan, taken = planned(run, asked.device) / 1e6, alone(measured, run, asked.device)
        rows.append([name, figure(plan), figure(taken), figure(plan / taken, 2)])
        print(f"| {' | '.join(rows[-1])} |", flush=True)
    head = HEAD.format(**vars(asked), classes=CLASSES).rstrip()
    titles = ["method", "planned MB", "measured MB", "ratio"]
    write(asked.output, head, machine(asked.device, torch.get_num_threads()), table(titles, rows))
    print(f"written {asked.output}")


def options() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("methods", nargs="*", choices=[[], *list_methods()], metavar="METHOD")
    parser.add_argument("--backbone", default="resnet50c")
    parser.add_argument("--size", default="256x512", help="height x width")
    parser.add_argument("--images", type=int, default=2, help="in a training step")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--output", type=Path, default=ROOT / "docs/results/planning.md")
    return parser


if __name__ == "__main__":
    main()
