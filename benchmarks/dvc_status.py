"""What DVC takes to say that nothing changed, with a dataset of many images prepared."""

import argparse
import hashlib
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median

import numpy as np
import yaml

from benchmarks.process import ROOT
from benchmarks.tables import figure, machine, table, write
from segcore.download import INVENTORY
from segcore.files import read_yaml, write_json
from segcore.shards import MANIFEST
from segcore.tables import DatasetTable

DATASET = "many"
COPIED = (".dvc/config", ".dvcignore", ".gitignore", "dvc.yaml", "params.yaml")
CODE = ("segcore", "pipelines")
SECONDS = 4.0
"""What the project allows itself."""
COMMANDS = (("status",), ("repro", f"prepare@{DATASET}"))
HEAD = """# What DVC takes to say that nothing changed

Written by `python -m benchmarks.dvc_status`. A copy of this project with one more dataset: an
inventory of {images} images and their labels, and {shards} shards of {size:.1f} MB. Seconds of the
whole command, the interpreter's start included, in {rounds} rounds; and the least that it had a
processor for, which other work on the machine changes little.
"""
TITLES = ("command", "least", "median", "most", "of a processor", "allowed")


def make_project(root: Path, images: int, shard_bytes: int) -> int:
    """A project that holds what `download` and `prepare` write; returns the number of shards."""
    for name in COPIED:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, root / name)
    for name in CODE:
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / name, root / name, ignore=ignored)
    params = read_yaml(root / "params.yaml")
    options = {"root": "photos", "images": "{stem}.jpg", "labels": "{stem}.png", "classes": ["a"]}
    params["datasets"][DATASET] = {"form": "folder", "options": options}
    (root / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False))
    write_inventory(root / "data/raw" / DATASET / INVENTORY, images)
    return write_shards(root / "data/shards" / DATASET, images, shard_bytes)


def write_inventory(path: Path, images: int) -> None:
    names = (f"{folder}/{number:06d}" for number in range(images) for folder in ("image", "label"))
    files = [["train", name, 99_999, hashlib.sha256(name.encode()).hexdigest()] for name in names]
    write_json(path, {"home": "nowhere", "licence": "", "files": files})


def write_shards(folder: Path, images: int, size: int) -> int:
    """As many as `prepare` makes, but of noise: DVC looks at sizes and times, not into them."""
    folder.mkdir(parents=True)
    count = -(-images // DatasetTable().images_per_shard)
    generator = np.random.default_rng(0)
    for number in range(count):
        name = f"train-{number:05d}-of-{count:05d}.parquet"
        (folder / name).write_bytes(generator.bytes(size))
    write_json(folder / MANIFEST, {"splits": {}})
    return count


def run(root: Path, *words: str) -> tuple[float, float]:
    """Seconds of a command of DVC, and those of a processor."""
    begun, used = time.perf_counter(), processor_seconds()
    done = subprocess.run(
        [sys.executable, "-m", "dvc", *words], cwd=root, capture_output=True, text=True
    )
    if done.returncode:
        sys.exit(f"dvc {' '.join(words)} ended with status {done.returncode}:\n{done.stderr}")
    if words in COMMANDS and "Running stage" in done.stdout:
        sys.exit(f"dvc {' '.join(words)} found something to do:\n{done.stdout}")
    return time.perf_counter() - begun, processor_seconds() - used


def processor_seconds() -> float:
    """Of all processes that were waited for."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def measure(root: Path, rounds: int) -> dict[str, list[tuple[float, float]]]:
    subprocess.run(["git", "init", "--quiet"], cwd=root, check=True)
    run(root, "commit", "--force", f"download@{DATASET}", f"prepare@{DATASET}")
    seconds = {" ".join(words): list[tuple[float, float]]() for words in COMMANDS}
    for _ in range(rounds):
        for words in COMMANDS:
            seconds[" ".join(words)].append(run(root, *words))
    return seconds


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=100_000)
    parser.add_argument("--shard-bytes", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--output", type=Path, default=ROOT / "docs/results/dvc_status.md")
    asked = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as scratch:
        shards = make_project(Path(scratch), asked.images, asked.shard_bytes)
        seconds = measure(Path(scratch), asked.rounds)
    rows = list[list[str]]()
    for name, taken in seconds.items():
        whole, used = zip(*taken, strict=True)
        figures = (min(whole), median(whole), max(whole), min(used))
        rows.append([f"`dvc {name}`", *(figure(s, 2) for s in figures), figure(SECONDS, 1)])
    facts = {"images": asked.images, "shards": shards, "size": asked.shard_bytes / 1e6}
    head = HEAD.format(**facts, rounds=asked.rounds).rstrip()
    write(asked.output, head, machine("cpu", 1), table(TITLES, rows))
    print(table(TITLES, rows))
    if any(min(taken)[0] > SECONDS for taken in seconds.values()):
        sys.exit(f"more than {SECONDS} s")


if __name__ == "__main__":
    main()
