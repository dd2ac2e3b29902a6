"""One library's update of a confusion matrix, measured on command in a process of its own.

The first line of standard output is the library's version, empty where it is missing; each line
of standard input, [classes, kind of maps], is answered with milliseconds.
"""

import json
import sys
import time
from collections.abc import Callable
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version

import numpy as np
import torch

SHAPE = 8, 1024, 2048
VOID = 255
PACKAGES = {"segcore": "torch", "torchmetrics": "torchmetrics", "mmseg": "mmsegmentation"}


@lru_cache(maxsize=1)
def maps(classes: int, kind: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Labels and predictions, uint8."""
    generator = np.random.default_rng(classes)

    def drawn(side: int) -> np.ndarray:
        small = SHAPE[0], SHAPE[1] // side, SHAPE[2] // side
        values = generator.integers(0, classes, small, dtype=np.uint8)
        return values.repeat(side, axis=1).repeat(side, axis=2)

    def chosen(side: int) -> np.ndarray:
        small = generator.random((SHAPE[0], SHAPE[1] // side, SHAPE[2] // side)) < 0.1
        return small.repeat(side, axis=1).repeat(side, axis=2)

    labels = drawn(32 if kind == "scene" else 1)
    found = np.where(chosen(4), drawn(4), labels) if kind == "scene" else drawn(1)
    labels[chosen(8)] = VOID
    return torch.from_numpy(labels), torch.from_numpy(found)


def segcore_update(classes: int) -> Callable[[torch.Tensor, torch.Tensor], object]:
    from segcore.metrics import confusion_matrix

    return lambda labels, found: confusion_matrix(labels, found, classes)


def torchmetrics_update(classes: int) -> Callable[[torch.Tensor, torch.Tensor], object]:
    from torchmetrics.classification import (
        MulticlassConfusionMatrix,
    )

    metric = MulticlassConfusionMatrix(classes, ignore_index=VOID)
    return lambda labels, found: metric.update(found, labels)


def mmseg_update(classes: int) -> Callable[[torch.Tensor, torch.Tensor], object]:
    from benchmarks.parity import published

    published.load_registry()
    from mmseg.evaluation import IoUMetric  # pyright: ignore[reportMissingImports]

    def update(labels: torch.Tensor, found: torch.Tensor) -> list[object]:
        pairs = zip(found, labels, strict=True)
        return [IoUMetric.intersect_and_union(*pair, classes, VOID) for pair in pairs]

    return update


UPDATES = {
    "segcore": segcore_update,
    "torchmetrics": torchmetrics_update,
    "mmseg": mmseg_update,
}


def main() -> None:
    torch.set_num_threads(1)
    library = sys.argv[1]
    try:
        print(json.dumps({"value": version(PACKAGES[library])}), flush=True)
    except PackageNotFoundError:
        print(json.dumps({"value": ""}), flush=True)
        return
    for line in sys.stdin:
        classes, kind = json.loads(line)
        pair = maps(classes, kind)
        if library != "segcore":
            pair = pair[0].long(), pair[1].long()
        update = UPDATES[library](classes)
        begun = time.perf_counter()
        update(*pair)
        print(json.dumps({"value": 1000 * (time.perf_counter() - begun)}), flush=True)


if __name__ == "__main__":
    main()
