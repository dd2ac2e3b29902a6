"""A model folder and a split -> its scores, by as many processes of this machine as pay off."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

from segcore.batches import evaluation_batches
from segcore.errors import InputError
from segcore.evaluation import CropReader, Tally, evaluate_images, merged
from segcore.files import read_json
from segcore.inference import predictor
from segcore.model_files import LoadedModel, load_model
from segcore.preparation import in_processes
from segcore.row import Run
from segcore.runs import device_of
from segcore.shards import Manifest, ShardReader
from segcore.tables import TestTime
from segcore.targets import classes_of, reader_of

PER_PART = 16
"""Images that a process takes at a time."""
PER_PROCESS = 64
"""Images that make up for the start of one."""
KILLED = "a process that scores images was killed; was memory short? Give the row fewer workers"


@dataclass(frozen=True)
class Part:
    """Every ``parts``-th image of a split, from the ``number``-th on, under a protocol."""

    folder: Path
    run: Run
    shards: str
    split: str
    how: TestTime
    number: int
    parts: int


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
    count = max(1, -(-images // PER_PART))
    tasks = [Part(folder, run, shards, split, how, number, count) for number in range(count)]
    processes = max(1, min(run.most_workers, images // PER_PROCESS))
    parts = dict[int, Tally]()
    try:
        for task, tally in in_processes(score_part, tasks, processes, KILLED):
            parts[task.number] = tally
            advance(len(tally.images))
    finally:
        _model.cache_clear()  # the next model may lie in the same folder
    names = classes_of(run, Manifest.read(shards).classes).names
    return merged([parts[number] for number in range(count)]).as_dict(names)


def score_part(part: Part) -> Tally:
    torch.set_num_threads(part.run.threads)
    device = device_of(part.run)
    if device.type == "cuda":
        device = torch.device("cuda", part.number % torch.cuda.device_count())
    model = _model(part.folder, device)
    reader, tally = (
        open_split(part.run, part.shards, part.split, part.how),
        Tally(len(model.classes)),
    )
    batches = evaluation_batches(reader, rank=part.number, ranks=part.parts)
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
    return CropReader(shards, split, how) if how.crop else reader_of(run, shards, split)


@lru_cache(maxsize=8)
def _model(folder: Path, device: torch.device) -> LoadedModel:
    """Loaded once per process and device."""
    model = load_model(folder)
    model.network.to(device)
    return model
