"""Rows as the stages leave them, made of random numbers: input for the tests of the report."""

import base64
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

NASTY = "<b>&"
"""A class name that must stay text."""
CONFUSION = [[80, 20, 0], [30, 60, 10], [0, 0, 0]]
SPACE = {
    "learning_rate": {"loguniform": [1e-3, 0.1]},
    "optimizer": {"choice": ["sgd", "adamw"]},
}


def write_row(
    runs: Path,
    name: str,
    *,
    dataset: str,
    miou: float,
    classes: int = 3,
    side: int = 16,
    images: int = 4,
    steps: int = 400,
    published: dict[str, Any] | None = None,
) -> str:
    """Writes ``runs/<name>/``: of three classes with ``CONFUSION``, of more with a random one."""
    folder, random = runs / name, np.random.default_rng([classes, *name.encode()])
    method, backbone = name.split("-")[:2]
    config = {"key": name, "method": method, "backbone": backbone, "dataset": dataset}
    config |= {"batch_size": 8, "steps": steps}
    scores = scores_of(name, dataset, miou, classes, images, random)
    fps = 100 * (1 - miou)
    files = {
        "config": config,
        "scores": scores | {"published": published},
        "benchmark": {
            "parameters": 12_345_678,
            "flops": 2_000_000_000,
            "image_size": [96, 128],
            "latency_ms": {"median": 1000 / fps, "p90": 1200 / fps, "p95": 1250 / fps},
            "fps": fps,
            "peak_memory_mb": 300.0,
            "device": "a processor",
            "precision": "float32",
            "threads": 2,
            "layout": "contiguous",
            "compiled": False,
            "warm_up_rounds": 3,
            "rounds": 20,
            "measures": "the network",
            "torch": "2.0",
        },
        "search": {
            "metric": "miou",
            "space": SPACE if dataset == "shapes" else {},
            "best": {"learning_rate": 0.03},
            "best_trial": "t2",
            "trials": [trial(number) for number in range(3 if dataset == "shapes" else 0)],
        },
    }
    (folder / "overlays").mkdir(parents=True)
    for file, value in files.items():
        (folder / f"{file}.json").write_text(json.dumps(value))
    events = [
        {"event": "step", "step": step, "loss": 2 / step, "seconds": 0.9, "data_seconds": 0.1}
        for step in range(1, steps + 1)
    ]
    evaluated = {"event": "evaluated", "step": steps, "miou": miou, "evaluation_seconds": 36.0}
    lines = [json.dumps(event) for event in [*events, evaluated]]
    (folder / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    shown = [shown_image(number, side, min(classes, 3), random) for number in range(images)]
    (folder / "overlays/val-images.json").write_text(json.dumps(shown))
    return name


def scores_of(
    name: str, dataset: str, miou: float, classes: int, images: int, random: np.random.Generator
) -> dict[str, Any]:
    names = ["sky", NASTY, *(f"class {i}" for i in range(2, classes))]
    counts = np.array(CONFUSION)
    if classes > 3:
        weights = random.exponential(1, (classes, classes)) ** 3
        counts = (1000 * (weights + 40 * np.eye(classes))).astype(int)
    both = counts.sum(0) + counts.sum(1) - np.diag(counts)
    present = counts.sum(1) > 0
    iou = [float(np.diag(counts)[i] / both[i]) if present[i] else None for i in range(classes)]
    result = {
        "images": images,
        "miou": miou,
        "intervals": {"miou": [miou - 0.02, miou + 0.03]},
        "pixel_accuracy": 0.7,
        "mean_accuracy": 0.65,
        "iou": iou,
        "accuracy": [None if value is None else min(1.0, value + 0.1) for value in iou],
        "absent": [names[i] for i in range(classes) if not present[i]],
        "confusion": counts.tolist(),
        "per_image": [{"id": f"image {i}", "miou": i / images} for i in range(images)],
    }
    return {
        "row": name,
        "dataset": dataset,
        "data_hash": "abc123",
        "classes": names,
        "colours": [[i * 37 % 256, i * 91 % 256, 200] for i in range(classes)],
        "looked_at": {"": "whole"},
        "splits": {"val": result, "train": result | {"miou": 0.99}},
        "protocols": {},
    }


def trial(number: int) -> dict[str, Any]:
    return {
        "id": f"t{number}",
        "values": {"learning_rate": 0.01 * (number + 1), "optimizer": "sgd"},
        "miou": 0.2 + 0.1 * number,
        "steps": 10 * (number + 1),
        "status": "stopped" if number == 0 else "finished",
        "history": [[10 * (j + 1), 0.1 * j] for j in range(number + 1)],
    }


def shown_image(number: int, side: int, classes: int, random: np.random.Generator) -> dict:
    """Noise; the label is class 0 with one corner not labelled, the prediction is random."""
    label = np.zeros((side, side), np.uint8)
    label[: side // 4, : side // 4] = 255
    found = random.integers(0, classes, (4, 4)).astype(np.uint8)
    found = found.repeat(-(-side // 4), 0).repeat(-(-side // 4), 1)[:side, :side]
    return {
        "id": f"image {number}",
        "height": side,
        "width": side,
        "input": data_uri(random.integers(0, 256, (side, side, 3)).astype(np.uint8), quality=80),
        "label": data_uri(label, lossless=True),
        "predicted": data_uri(found, lossless=True),
    }


def data_uri(pixels: np.ndarray, **options: Any) -> str:
    Image.fromarray(pixels).save(file := io.BytesIO(), "WEBP", **options)
    return f"data:image/webp;base64,{base64.b64encode(file.getvalue()).decode()}"
