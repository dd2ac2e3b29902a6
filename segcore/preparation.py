"""Raw files of a dataset -> shards and their manifest.

Every image and label is decoded once, checked and mapped to train ids once. Whatever is wrong
is told in one list. One shard is one task; a killed run continues at the shard it was at.
"""

import hashlib
import io
import multiprocessing
import os
import shutil
import struct
import sys
import zlib
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image, UnidentifiedImageError

from segcore.datasets import Dataset, Pair
from segcore.errors import InputError
from segcore.files import hash_of, read_json, sha256_of, write_json
from segcore.shards import MANIFEST, Record, build_manifest, counted, summed, write_shard

SHOWN_PROBLEMS = 20
IMAGES_WORTH_A_PROCESS = 200
"""Starting a process takes seconds, mostly to import torch."""
BROKEN = (OSError, EOFError, SyntaxError, ValueError, struct.error, zlib.error)
"""What Pillow's decoders raise on files that are cut short or damaged."""


@dataclass(frozen=True)
class Task:
    """One shard to write: the samples it holds and where it goes."""

    dataset: Dataset
    split: str
    path: Path
    pairs: tuple[Pair, ...]
    meaning: str
    """Changes when the dataset's options, class table or file do."""

    @property
    def summary(self) -> Path:
        """Written after the shard: where both stand, the task is done."""
        return self.path.with_suffix(".json")

    def source(self) -> str:
        """Changes when any raw file of the shard does, or what its labels mean."""
        files = [path for pair in self.pairs for path in (pair.image, pair.label)]
        stats = [path.stat() if path.exists() else None for path in files]
        seen = [stat and (stat.st_size, stat.st_mtime_ns) for stat in stats]
        return hash_of([self.meaning, [pair.id for pair in self.pairs], seen])


def plan_shards(dataset: Dataset, raw: Path, folder: Path, images_per_shard: int) -> list[Task]:
    """The shards to write. Raises InputError where the splits are not what they should be."""
    splits = dataset.pairs(raw)
    _check_splits(dataset, splits)
    meaning, tasks = _meaning(dataset), list[Task]()
    for split, pairs in splits.items():
        count = -(-len(pairs) // images_per_shard)
        for number in range(count):
            part = pairs[len(pairs) * number // count : len(pairs) * (number + 1) // count]
            path = folder / f"{split}-{number:05d}-of-{count:05d}.parquet"
            tasks.append(Task(dataset, split, path, tuple(part), meaning))
    return tasks


def _check_splits(dataset: Dataset, splits: dict[str, list[Pair]]) -> None:
    seen = dict[Path, str]()
    for split, pairs in splits.items():
        expected = dataset.split_sizes.get(split, len(pairs))
        if len(pairs) != expected or not pairs:
            counts = f"{len(pairs)} images, {expected or 'some'} expected"
            raise InputError(f"split {split} has {counts}; complete the raw files")
        for pair in pairs:
            if pair.image in seen:
                where = f"in split {seen[pair.image]} and again in {split}"
                raise InputError(f"{pair.image} is {where}; keep it in one place")
            seen[pair.image] = split


def _meaning(dataset: Dataset) -> str:
    code = getattr(sys.modules[type(dataset).__module__], "__file__", None)
    with np.printoptions(threshold=sys.maxsize):
        state = repr(vars(dataset)).encode()
    return hashlib.sha256(state + (Path(code).read_bytes() if code else b"")).hexdigest()


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
    """Writes ``out``; yields first how many images are planned, then how many each shard adds.

    Shards are written in ``work`` and the folder is renamed when all is there. Raises
    InputError that lists every problem found in the raw files.
    """
    tasks = plan_shards(dataset, raw, work, images_per_shard)
    yield sum(len(task.pairs) for task in tasks)
    problems, summaries = list[str](), dict[Path, dict[str, Any]]()
    # macOS knows no affinity
    cores = getattr(os, "sched_getaffinity", lambda _: range(os.cpu_count() or 1))
    for task, summary in _results(tasks, processes or len(cores(0))):
        problems += summary.get("problems", [])
        summaries[task.path] = summary
        yield len(task.pairs)
    if problems:
        raise InputError(_listed(name, sorted(problems)))
    for path in set(work.iterdir()) - set(summaries):  # summaries, and what killed runs left
        path.unlink()
    splits = dict[str, list[Any]]()
    for task in tasks:
        splits.setdefault(task.split, []).append(summaries[task.path])
    write_json(work / MANIFEST, build_manifest(name, dataset.classes, dataset.licence, splits))
    (out / MANIFEST).unlink(missing_ok=True)  # first, so that no half of the old one looks whole
    shutil.rmtree(out, ignore_errors=True)
    out.parent.mkdir(parents=True, exist_ok=True)
    work.replace(out)


def _listed(name: str, problems: list[str]) -> str:
    remedy = "mend them and run it again, nothing was prepared"
    lines = [f"dataset {name}: {len(problems)} problem(s); {remedy}"]
    lines += problems[:SHOWN_PROBLEMS]
    if more := len(problems[SHOWN_PROBLEMS:]):
        lines.append(f"... and {more} more")
    return "\n  ".join(lines)


def _results(tasks: list[Task], processes: int) -> Iterator[tuple[Task, dict[str, Any]]]:
    worth = sum(len(task.pairs) for task in tasks) // IMAGES_WORTH_A_PROCESS
    processes = min(processes, len(tasks), worth)
    if processes <= 1:
        yield from ((task, write_one(task)) for task in tasks)
        return
    # not fork: the parent may hold threads of torch and Arrow
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(processes, mp_context=context, initializer=_end_with_parent)
    try:
        futures = {pool.submit(write_one, task): task for task in tasks}
        for future in as_completed(futures):
            yield futures[future], future.result()
    except BrokenProcessPool:
        remedy = "was memory short? Run the stage again: finished shards are kept"
        raise InputError(f"a process that prepares images was killed; {remedy}") from None
    finally:
        pool.shutdown(cancel_futures=True)


def _end_with_parent() -> None:
    """A process whose parent was killed would wait for tasks for ever."""
    parent = multiprocessing.parent_process()
    assert parent
    Thread(target=lambda: (parent.join(), os._exit(1)), daemon=True).start()


def write_one(task: Task) -> dict[str, Any]:
    """Writes a shard unless it is there; returns its summary, or ``{"problems": [...]}``."""
    source = task.source()
    if task.summary.exists() and task.path.exists():
        summary = read_json(task.summary)
        if summary["source"] == source and summary["shard"]["sha256"] == sha256_of(task.path):
            return summary
    task.summary.unlink(missing_ok=True)
    problems, counts, sizes = list[str](), list[Any](), set[tuple[int, int]]()

    def records() -> Iterator[Record]:
        for pair in task.pairs:
            try:
                record, image = read_pair(task.dataset, pair)
            except InputError as error:
                problems.append(str(error))
                continue
            counts.append(counted(record.labels, image, len(task.dataset.classes)))
            sizes.add((record.height, record.width))
            yield record

    rows = write_shard(task.path, records(), task.dataset.classes)
    if problems:
        task.path.unlink()
        return {"problems": problems}
    shard = {"name": task.path.name, "sha256": sha256_of(task.path), "rows": rows}
    summary = {"source": source, "shard": shard, "sizes": sorted(sizes), "counts": summed(counts)}
    write_json(task.summary, summary)
    return summary


def read_pair(dataset: Dataset, pair: Pair) -> tuple[Record, UInt8[np.ndarray, "h w 3"]]:
    """One sample, checked. Raises InputError that names the file and what is wrong with it."""
    with _blamed_on(pair.image):
        encoded, image = _decoded(pair.image.read_bytes())
    with _blamed_on(pair.label):
        labels = dataset.read_labels(pair.label)
    height, width = labels.shape
    if image.shape[:2] != (height, width):
        raise InputError(
            f"{pair.image} is {image.shape[1]}x{image.shape[0]} pixels"
            f" but its labels {pair.label} are {width}x{height}"
        )
    return Record(pair.id, encoded, labels.tobytes(), height, width), image


@contextmanager
def _blamed_on(path: Path) -> Iterator[None]:
    try:
        yield
    except InputError:
        raise
    except FileNotFoundError:
        raise InputError(f"{path} is missing") from None
    except UnidentifiedImageError:
        raise InputError(f"{path} ({path.stat().st_size} bytes) is no image") from None
    except (*BROKEN, Image.DecompressionBombError) as error:
        raise InputError(f"{path} cannot be decoded: {error}") from None


def _decoded(encoded: bytes) -> tuple[bytes, UInt8[np.ndarray, "h w 3"]]:
    """The bytes to store and the RGB pixels. What is not plain RGB becomes an RGB PNG.

    EXIF orientation is left alone: labels were drawn on the stored pixels. Alpha is dropped.
    """
    with Image.open(io.BytesIO(encoded)) as image:
        image.load()
        depth = encoded[24] if image.format == "PNG" else 8  # PNG specification, 11.2.1
        if depth > 8 or image.mode.startswith(("I", "F")):
            raise ValueError(f"8 bits per channel are expected, this is {image.mode}, {depth} bits")
        # MPO: a JPEG file with a second picture behind it, as many cameras write
        if image.format in ("JPEG", "MPO", "PNG") and image.mode == "RGB":
            return encoded, np.asarray(image)
        rgb = image.convert("RGBA").convert("RGB") if image.mode == "P" else image.convert("RGB")
    buffer = io.BytesIO()
    rgb.save(buffer, "PNG")
    return buffer.getvalue(), np.asarray(rgb)
