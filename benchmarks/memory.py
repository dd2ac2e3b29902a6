"""Peak memory of methods on one backbone, in inference and in training, beside FCN's.

FCN is nothing but convolutions: what a method needs beyond it, its context costs. Each figure is
taken in a process of its own.
"""

import argparse
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch

from benchmarks.process import ROOT
from benchmarks.tables import figure, machine, table, write
from segcore.backbones import build_backbone
from segcore.losses import build_criterion
from segcore.memory import peak_memory
from segcore.models import build_model, list_methods, method_class
from segcore.segmenter import Segmenter

CLASSES = 19
DILATED = {4, 8}
YARDSTICK = "fcn"
FORMS: dict[str, tuple[str, dict[str, Any]]] = {
    **{name: (name, {}) for name in list_methods()},
    "ocnet-pyramid": ("ocnet", {"context": "pyramid", "value_width": 512, "shared": True}),
    "ocnet-asp": ("ocnet", {"context": "asp", "key_width": 128, "value_width": 128}),
}
BOUNDED = ("non_local", "ocnet", "ocnet-pyramid", "ocnet-asp", "danet", "ccnet", "isanet", "encnet")
"""Those whose every pixel looks at all others, by an attention map or codewords."""

HEAD = """# Peak memory beside FCN's

Written by `python -m benchmarks.memory`. What one pass adds at its peak to the memory in use, in
10^6 bytes: inference on one image of {inference}; a training step (forward, cross entropy of all
outputs, backward; gradients included, no optimiser) on {images} images of {training}. Backbone
{backbone} at stride 8 (its own strides where a method needs those), float32, {classes} classes.
Ratios are to fcn's.
"""


def build(form: str, backbone: str) -> Segmenter:
    name, options = FORMS[form]
    stride = 8 if set(method_class(name).needed_strides) <= DILATED else None
    torch.manual_seed(0)
    return build_model(name, build_backbone(backbone, output_stride=stride), CLASSES, **options)


def inference_memory(
    form: str, backbone: str, size: tuple[int, int], device: str, threads: int
) -> int:
    """Bytes that one image adds at its peak."""
    torch.set_num_threads(threads)
    model = build(form, backbone).to(device).eval()
    small, images = torch.rand(1, 3, 64, 64), torch.rand(1, 3, *size)
    with torch.inference_mode():
        model(small.to(device))  # what is set up once is no part of it
        given = images.to(device)
        return peak_memory(lambda: model(given), torch.device(device))


def training_memory(
    form: str, backbone: str, size: tuple[int, int], images: int, device: str, threads: int
) -> int:
    """Bytes that the first training step adds at its peak."""
    torch.set_num_threads(threads)
    model = build(form, backbone).to(device).train()
    criterion = build_criterion("cross_entropy")

    def step(given: torch.Tensor) -> None:
        labels = torch.zeros(len(given), *given.shape[2:], dtype=torch.uint8, device=device)
        criterion(model(given), labels).backward()

    step(torch.rand(2, 3, 64, 64, device=device))
    model.zero_grad()
    given = torch.rand(images, 3, *size, device=device)
    return peak_memory(lambda: step(given), torch.device(device))


def alone(what: Callable[..., int], *arguments: Any) -> float:
    """Megabytes, found by a process of its own."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(what, *arguments).result() / 1e6


def main(arguments: Sequence[str] | None = None) -> None:
    asked = options().parse_args(arguments)
    inference, training = (
        tuple(int(side) for side in size.split("x")) for size in (asked.inference, asked.training)
    )
    ending = (asked.device, asked.threads)
    found = dict[str, tuple[float, float]]()
    rows = list[list[str]]()
    for form in (YARDSTICK, *(asked.forms or BOUNDED)):
        found[form] = (
            alone(inference_memory, form, asked.backbone, inference, *ending),
            alone(training_memory, form, asked.backbone, training, asked.images, *ending),
        )
        pairs = zip(found[form], found[YARDSTICK], strict=True)
        cells = [cell for a, b in pairs for cell in (figure(a), figure(a / b, 2))]
        rows.append([form, *cells])
        print(f"| {' | '.join(rows[-1])} |", flush=True)
    titles = ["form", "inference MB", "x fcn", "training MB", "x fcn"]
    head = HEAD.format(**vars(asked), classes=CLASSES).rstrip()
    write(asked.output, head, machine(asked.device, asked.threads), table(titles, rows))
    print(f"written {asked.output}")


def options() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("forms", nargs="*", choices=[[], *FORMS], metavar="FORM")
    parser.add_argument("--backbone", default="resnet50c")
    parser.add_argument("--inference", default="1024x2048", help="height x width")
    parser.add_argument("--training", default="512x1024", help="height x width")
    parser.add_argument("--images", type=int, default=2, help="in a training step")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--output", type=Path, default=ROOT / "docs/results/memory.md")
    return parser


if __name__ == "__main__":
    main()
