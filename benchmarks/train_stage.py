"""What the stage ``train`` costs beyond its training: starting engines, storing, registering.

Each round trains a small row from nothing, as ``dvc repro`` would. The loop is what the journal
says of it: the seconds of its steps and evaluations.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

import yaml

from benchmarks.process import ROOT
from benchmarks.tables import figure, machine, table, write
from segcore.journal import read_lines

DATASET = "shapes"
RECIPE = {
    "crop": [64, 64],
    "batch_size": 8,
    "steps": 60,
    "evaluate_every": 30,
    "save_every": 30,
    "benchmark_size": [64, 64],
}


def row_name(workers: int) -> str:
    return f"fcn-resnet18-{DATASET}-{workers}w"


def make_project(root: Path, workers: Sequence[int]) -> None:
    row = {"method": "fcn", "backbone": "resnet18", "dataset": DATASET}
    content = {
        "datasets": {
            DATASET: {
                "options": {"train": 64, "val": 16, "height": 64, "width": 96},
                "recipe": RECIPE,
            }
        },
        "rows": {row_name(count): {**row, "workers": count} for count in workers},
    }
    (root / "params.yaml").write_text(yaml.safe_dump(content))
    for verb in ("download", "prepare"):
        _stage(root, verb, DATASET)
    for count in workers:
        _stage(root, "tune", row_name(count))


def _stage(root: Path, verb: str, key: str) -> float:
    """Seconds of the process."""
    # A process that may not keep what it compiles spends seconds on that; make allows it, too.
    left_out = ("RAY_", "PYTHONDONTWRITEBYTECODE")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(left_out)}
    begun = time.perf_counter()
    command = [sys.executable, "-m", f"pipelines.{verb}", key]
    environment = {**kept, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{verb} {key} failed:\n{done.stdout}{done.stderr}")
    return time.perf_counter() - begun


def train_once(root: Path, row: str) -> tuple[float, float]:
    """Seconds of the stage and of its loop, from nothing."""
    folder = root / "runs" / row
    for path in folder.iterdir():
        if path.name not in ("search.json", "search"):
            path.unlink()
    for name in ("mlflow.db", "mlartifacts"):
        path = root / name
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    whole = _stage(root, "train", row)
    return whole, sum(map(_seconds_of, read_lines(folder / "metrics.jsonl")))


def _seconds_of(event: dict[str, Any]) -> float:
    return event.get("seconds", 0.0) + event.get("evaluation_seconds", 0.0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--output", type=Path, default=ROOT / "docs/results/train_stage.md")
    asked = parser.parse_args()
    lines = list[list[str]]()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        make_project(root, asked.workers)
        for count in asked.workers:
            rounds = [train_once(root, row_name(count)) for _ in range(asked.rounds)]
            rest = [whole - loop for whole, loop in rounds]
            cells = [median(loop for _, loop in rounds), median(rest), min(rest), max(rest)]
            lines.append([str(count), *(figure(value, 1) for value in cells)])
            print(f"{count} worker(s): {', '.join(figure(value, 1) for value in rest)} s")
    titles = ["workers", "loop (s)", "stage minus loop (s), median", "least", "most"]
    write(
        asked.output,
        "# What the stage `train` costs beyond its training",
        f"{machine('cpu', 1)} {asked.rounds} rounds each, with an empty tracking store.",
        table(titles, lines),
    )


if __name__ == "__main__":
    main()
