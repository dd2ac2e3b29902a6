"""Raw files of a dataset -> shards and their manifest.

Every image and label is decoded once, checked and mapped to train ids once. Whatever is wrong
is told in one list. One shard is one task; a killed run continues at the shard it was at.
"""

import hashlib
import io
import multiprocessing
import os
import shutil
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from segcore.datasets import Dataset, Pair
from segcore.errors import InputError
from segcore.files import hash_of, read_json, sha256_of, write_json
from segcore.shards import MANIFEST, Record, write_shard
from segcore.types import IGNORE

SHOWN_PROBLEMS = 20
IMAGES_WORTH_A_PROCESS = 200
"""Starting a process takes seconds, mostly to import torch."""


@dataclass(frozen=True)
class Task:
    """One shard to write: the samples it holds and where it goes."""

    dataset: Dataset
    split: str
    path: Path
    pairs: tuple[Pair, ...]

    @property
    def summary(self) -> Path:
        """Written after the shard: where both stand, the task is done."""
        return self.path.with_suffix(".json")


def plan_shards(dataset: Dataset, raw: Path, folder: Path, images_per_shard: int) -> list[Task]:
    """The shards to write. Raises InputError where the splits are not what they should be."""
    splits = dataset.pairs(raw)
    _check_splits(dataset, splits)
    tasks = list[Task]()
    for split, pairs in splits.items():
        count = -(-len(pairs) // images_per_shard)
        for number in range(count):
            part = pairs[len(pairs) * number // count : len(pairs) * (number + 1) // count]
            path = folder / f"{split}-{number:05d}-of-{count:05d}.parquet"
            tasks.append(Task(dataset, split, path, tuple(part)))
    return tasks


def _check_splits(dataset: Dataset, splits: dict[str, list[Pair]]) -> None:
    seen = dict[Path, str]()
    for split, pairs in splits.items():
        expected = dataset.split_sizes.get(split, len(pairs))
        if len(pairs) != expected or not pairs:
            raise InputError(
                f"split {split} has {len(pairs)} images; {expected or 'some'} expected"
            )
        for pair in pairs:
            if pair.image in seen:
                raise InputError(f"{pair.image} is in split {seen[pair.image]} and in {split}")
            seen[pair.image] = split


def prepare(
    name: str,
    dataset: Dataset,
    raw: Path,
    out: Path,
    work: Path,
    *,
    images_per_shard: int = 256,
    processes: int | None = None,
) -> Iterator[int]:
    """Writes ``out``; yields how many images are done, out of how many were planned first.

    Shards are written in ``work`` and the folder is renamed when all is there. Raises
    InputError that lists every problem found in the raw files.
    """
    tasks = plan_shards(dataset, raw, work, images_per_shard)
    yield sum(len(task.pairs) for task in tasks)
    problems, summaries = list[str](), dict[Path, dict[str, Any]]()
    for task, result in _results(tasks, processes or len(os.sched_getaffinity(0))):
        if "problems" in result:
            problems += result["problems"]
        summaries[task.path] = result
        yield len(task.pairs)
    if problems:
        raise InputError(_listed(name, sorted(problems)))
    write_json(work / MANIFEST, _manifest(name, dataset, summaries, tasks))
    for task in tasks:
        task.summary.unlink()
    shutil.rmtree(out, ignore_errors=True)
    out.parent.mkdir(parents=True, exist_ok=True)
    work.replace(out)


def _listed(name: str, problems: list[str]) -> str:
    more = len(problems) - SHOWN_PROBLEMS
    lines = [f"dataset {name}: {len(problems)} problem(s), nothing was prepared", *problems]
    return "\n  ".join(lines[: SHOWN_PROBLEMS + 1] + ([f"... and {more} more"] if more > 0 else []))


def _results(tasks: list[Task], processes: int) -> Iterator[tuple[Task, dict[str, Any]]]:
    worth = sum(len(task.pairs) for task in tasks) // IMAGES_WORTH_A_PROCESS
    processes = min(processes, len(tasks), worth)
    if processes <= 1:
        yield from ((task, write_one(task)) for task in tasks)
        return
    # not fork: the parent may hold threads of torch and Arrow
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes, mp_context=context) as pool:
        futures = {pool.submit(write_one, task): task for task in tasks}
        for future in as_completed(futures):
            yield futures[future], future.result()


def write_one(task: Task) -> dict[str, Any]:
    """Writes a shard unless it is there; returns its summary, or ``{"problems": [...]}``."""
    source = _source(task)
    if task.summary.exists() and task.path.exists():
        summary = read_json(task.summary)
        if summary["source"] == source and summary["sha256"] == sha256_of(task.path):
            return summary
    audit, problems = Audit(len(task.dataset.classes)), list[str]()

    def records() -> Iterator[Record]:
        for pair in task.pairs:
            try:
                record, image = read_pair(task.dataset, pair)
            except InputError as error:
                problems.append(str(error))
                continue
            audit.add(record, image)
            yield record

    rows = write_shard(task.path, records(), task.dataset.classes)
    if problems:
        task.path.unlink()
        return {"problems": problems}
    shard = {"name": task.path.name, "sha256": sha256_of(task.path), "rows": rows}
    summary = {
        "source": source,
        "sha256": shard["sha256"],
        "shard": shard,
        "audit": audit.as_dict(),
    }
    write_json(task.summary, summary)
    return summary


class Audit:
    """What is counted while every pixel passes by once."""

    def __init__(self, classes: int) -> None:
        self.classes = classes
        self.labels = np.zeros(256, np.int64)
        self.images_with = np.zeros(256, np.int64)
        self.unlabelled = 0
        self.channels = np.zeros((2, 3), np.int64)
        self.sizes = set[tuple[int, int]]()

    def add(self, record: Record, image: UInt8[np.ndarray, "h w 3"]) -> None:
        histogram = np.bincount(np.frombuffer(record.labels, np.uint8), minlength=256)
        self.labels += histogram
        self.images_with += histogram > 0
        self.unlabelled += int(histogram[:IGNORE].sum() == 0)
        values = image.reshape(-1, 3).astype(np.int64)
        self.channels += np.stack([values.sum(0), (values * values).sum(0)])
        self.sizes.add((record.height, record.width))

    def as_dict(self) -> dict[str, Any]:
        return {
            "pixels": self.labels[: self.classes].tolist(),
            "void_pixels": int(self.labels[IGNORE]),
            "images_with": self.images_with[: self.classes].tolist(),
            "unlabelled_images": self.unlabelled,
            "channels": self.channels.tolist(),
            "smallest": list(min(self.sizes, default=(0, 0))),
            "largest": list(max(self.sizes, default=(0, 0))),
        }


def read_pair(dataset: Dataset, pair: Pair) -> tuple[Record, UInt8[np.ndarray, "h w 3"]]:
    """One sample, checked. Raises InputError that names the file and what is wrong with it."""
    try:
        encoded = pair.image.read_bytes()
        encoded, image = _decoded(encoded)
        labels = dataset.read_labels(pair.label)
    except InputError:
        raise
    except FileNotFoundError as error:
        raise InputError(f"{error.filename} is missing (sample {pair.id})") from None
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        broken = pair.label if "image" in locals() else pair.image
        raise InputError(f"{broken} cannot be decoded: {error}") from None
    height, width = labels.shape
    if image.shape[:2] != (height, width):
        raise InputError(
            f"{pair.image} is {image.shape[1]}x{image.shape[0]} pixels"
            f" but its labels {pair.label} are {width}x{height}"
        )
    return Record(pair.id, encoded, labels.tobytes(), height, width), image


def _decoded(encoded: bytes) -> tuple[bytes, UInt8[np.ndarray, "h w 3"]]:
    """The bytes to store and the RGB pixels. What is not plain RGB becomes an RGB PNG.

    EXIF orientation is left alone: labels were drawn on the stored pixels.
    """
    with Image.open(io.BytesIO(encoded)) as image:
        image.load()
        if image.mode.startswith(("I", "F")):
            raise InputError(f"pixels are {image.mode}, 8 bits per channel are expected")
        if image.format in ("JPEG", "PNG") and image.mode == "RGB":
            return encoded, np.asarray(image)
        rgb = image.convert("RGB")
    buffer = io.BytesIO()
    rgb.save(buffer, "PNG")
    return buffer.getvalue(), np.asarray(rgb)


def _manifest(name: str, dataset: Dataset, summaries: dict[Path, Any], tasks: list[Task]) -> Any:
    splits = dict[str, Any]()
    for task in tasks:
        splits.setdefault(task.split, []).append(summaries[task.path])
    merged = {split: _merged(parts) for split, parts in splits.items()}
    digest = hashlib.sha256()
    for task in tasks:
        digest.update(bytes.fromhex(summaries[task.path]["sha256"]))
    return {
        "dataset": name,
        "data_hash": digest.hexdigest(),
        "licence": dataset.licence,
        "classes": asdict(dataset.classes),
        "splits": merged,
    }


def _merged(summaries: list[dict[str, Any]]) -> dict[str, Any]:
    audits = [summary["audit"] for summary in summaries]

    def total(key: str) -> Any:
        return np.sum([audit[key] for audit in audits], axis=0).tolist()

    pixels = sum(total("pixels")) + total("void_pixels")
    sums, squares = np.array(total("channels"), np.float64) / pixels
    return {
        "images": sum(summary["shard"]["rows"] for summary in summaries),
        **{
            key: total(key) for key in ("pixels", "void_pixels", "images_with", "unlabelled_images")
        },
        "mean": sums.round(4).tolist(),
        "std": np.sqrt(squares - sums**2).round(4).tolist(),
        "smallest": min(audit["smallest"] for audit in audits),
        "largest": max(audit["largest"] for audit in audits),
        "shards": [summary["shard"] for summary in summaries],
    }


def _source(task: Task) -> str:
    """Changes when any raw file of the shard does."""
    files = [path.stat() for pair in task.pairs for path in (pair.image, pair.label)]
    names = [pair.id for pair in task.pairs]
    return hash_of([names, [(file.st_size, file.st_mtime_ns) for file in files]])
