"""A model folder and a split -> its scores, by as many processes of this machine as pay off."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import torch

from segcore.batches import collate
from segcore.errors import InputError
from segcore.evaluation import Tally, evaluate_images, merged
from segcore.files import read_json
from segcore.inference import predictor, resized_sides
from segcore.model_files import LoadedModel, load_model
from segcore.pixels import resize_image, resize_labels
from segcore.preparation import in_processes
from segcore.row import Run
from segcore.runs import device_of
from segcore.shards import Manifest, ShardReader
from segcore.tables import TestTime
from segcore.targets import classes_of, reader_of
from segcore.types import Sample

PER_PART = 16
"""Images that a process takes at a time."""
PER_PROCESS = 64
"""Images that make up for the start of one."""
KILLED = "a process that scores images was killed; was memory short? Give the row fewer workers"


@dataclass(frozen=True)
class Part:
    """The images from ``first`` to before ``end`` of a split, under a protocol."""

    folder: Path
    run: Run
    shards: str
    split: str
    how: TestTime
    first: int
    end: int


def score_split(
    folder: Path,
    run: Run,
    shards: str,
    split: str,
    how: TestTime,
    advance: Callable[[int], object] = lambda images: None,
) -> dict[str, Any]:
    """What ``scores.json`` says of a split under a protocol; ``advance`` hears of images done.

    ``run`` says how many processes there are at most (its workers), with how many threads, and
    where. Raises InputError where the system killed one.
    """
    images = len(open_split(run, shards, split, how))
    starts = range(0, max(images, 1), PER_PART)
    tasks = [
        Part(folder, run, shards, split, how, first, min(first + PER_PART, images))
        for first in starts
    ]
    processes = max(1, min(run.most_workers, images // PER_PROCESS))
    parts = dict[int, Tally]()
    try:
        for task, tally in in_processes(score_part, tasks, processes, KILLED):
            parts[task.first] = tally
            advance(len(tally.images))
    finally:
        _model.cache_clear()  # the next model may lie in the same folder
        _reader.cache_clear()
    names = classes_of(run, Manifest.read(shards).classes).names
    return merged([parts[first] for first in starts]).as_dict(names)


def score_part(part: Part) -> Tally:
    torch.set_num_threads(part.run.threads)
    device = device_of(part.run)
    if device.type == "cuda":
        device = torch.device("cuda", part.first // PER_PART % torch.cuda.device_count())
    model = _model(part.folder, device)
    rules = part.run.model_dump_json(), part.how.model_dump_json()
    reader = _reader(part.shards, part.split, *rules)
    tally = Tally(len(model.classes))
    batches = (collate([reader[index]]) for index in range(part.first, part.end))
    predict = predictor(part.how, model.classes.mirror)
    for result in evaluate_images(model.network, batches, len(model.classes), predict):
        tally.add(result)
    return tally


def check_data(key: str, folder: Path, model: LoadedModel, manifest: Manifest) -> None:
    """``folder`` is the row's. Raises InputError where its model was trained on other data, or for
    other classes, than the manifest describes."""
    known = read_json(folder / "registered.json")["data_hash"]
    what = f"{key} was trained on other {{}} of {manifest.dataset} than are prepared now{{}}"
    remedy = f"; run: dvc repro train@{key}"
    if model.classes != classes_of(model.config, manifest.classes):
        raise InputError(what.format("classes", remedy))
    if known != manifest.data_hash:
        hashes = f" ({known[:12]}, not {manifest.data_hash[:12]})"
        raise InputError(what.format("data", hashes + remedy))


def open_split(run: Run, shards: str, split: str, how: TestTime) -> ShardReader:
    """The images that ``how`` looks at, labelled as the row's network is scored."""
    changes = [partial(cropped, how)] if how.crop else []
    return reader_of(run, shards, split, *changes)


def cropped(how: TestTime, sample: Sample) -> Sample:
    """Resized and cut to its middle: "val (crop)" in some tables."""
    assert how.crop
    height, width = resized_sides(sample.labels.shape, how.resize)
    image = resize_image(sample.image, (height, width))
    labels = resize_labels(sample.labels, (height, width))
    tall, wide = how.crop
    top, left = (height - tall) // 2, (width - wide) // 2
    window = slice(top, top + tall), slice(left, left + wide)
    return Sample(sample.id, image[:, *window], labels[window].contiguous())


@lru_cache(maxsize=8)
def _model(folder: Path, device: torch.device) -> LoadedModel:
    """Loaded once per process and device."""
    model = load_model(folder)
    model.network.to(device)
    return model


@lru_cache(maxsize=8)
def _reader(shards: str, split: str, run: str, how: str) -> ShardReader:
    """Opened once per process. Row and protocol come as JSON: text can be looked up."""
    rules = Run.model_validate_json(run), TestTime.model_validate_json(how)
    return open_split(rules[0], shards, split, rules[1])
