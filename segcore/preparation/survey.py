"""Raw files of a dataset -> shards and their manifest.

Every image and label is decoded once, checked and mapped to train ids once. Whatever is wrong
is told in one list. One shard is one task; a killed run continues at the shard it was at.
"""

import hashlib
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from segcore.acquisition.archives import written_below
from segcore.datasets import Dataset, Pair
from segcore.errors import InputError, in_one_list
from segcore.files import write_json, written_whole
from segcore.preparation.audit import Place, across, build_manifest, same_pictures
from segcore.preparation.processes import Mapper, in_processes
from segcore.preparation.tasks import Task, write_one
from segcore.shards import MANIFEST
from segcore.tables import DatasetTable, Treatment

IMAGES_WORTH_A_PROCESS = 200
"""Starting a process takes seconds, mostly to import torch."""
UNTOUCHED = DatasetTable()
READS_LABELS = ("preparation/*.py", "formats/*.py", "datasets/__init__.py", "decoding.py")
READS_LABELS += ("shards.py",)
"""The code, beside the dataset's own file, that decides what stands in a shard."""


def plan_shards(
    dataset: Dataset, splits: dict[str, list[Pair]], folder: Path, table: DatasetTable
) -> list[Task]:
    """The shards to write below ``folder``."""
    treatment = Treatment.model_validate(table.model_dump(include=set(Treatment.model_fields)))
    meaning, tasks = _meaning(dataset, treatment), list[Task]()
    for split, pairs in splits.items():
        count = -(-len(pairs) // table.images_per_shard)
        for number in range(count):
            part = pairs[len(pairs) * number // count : len(pairs) * (number + 1) // count]
            path = folder / f"{split}-{number:05d}-of-{count:05d}.parquet"
            # whoever works for us may stand in another folder
            placed = (Pair(pair.id, pair.image.absolute(), pair.label.absolute()) for pair in part)
            tasks.append(Task(dataset, split, path, tuple(placed), treatment, meaning))
    return tasks


def _meaning(dataset: Dataset, treatment: Treatment) -> str:
    digest = hashlib.sha256(treatment.model_dump_json(exclude={"skip_bad"}).encode())
    with np.printoptions(threshold=sys.maxsize):
        digest.update(repr(dataset.__getstate__()).encode())
    code = getattr(sys.modules[type(dataset).__module__], "__file__", None)
    library = Path(__file__).parents[1]
    ours = sorted(path for part in READS_LABELS for path in library.glob(part))
    for path in [*ours, *([Path(code)] if code else [])]:
        digest.update(path.read_bytes())
    return digest.hexdigest()


def split_problems(dataset: Dataset, splits: dict[str, list[Pair]]) -> list[str]:
    """What is wrong with the splits themselves: sizes, images and names that stand twice."""
    problems, seen = list[str](), dict[Path, str]()
    for split, pairs in splits.items():
        expected, names = dataset.split_sizes.get(split, len(pairs)), set[str]()
        if len(pairs) != expected or not pairs:
            counts = f"{len(pairs)} images, {expected or 'some'} expected"
            problems.append(f"split {split} has {counts}; complete the raw files")
        for pair in pairs:
            if pair.image in seen:
                where = f"in split {seen[pair.image]} and again in {split}"
                problems.append(f"{pair.image} is {where}; keep it in one place")
            elif pair.id in names:
                problems.append(f"{pair.image}: split {split} has the name {pair.id} twice")
            seen[pair.image] = split
            names.add(pair.id)
    return problems


class Survey:
    """All samples of a dataset, looked at task by task: what they hold, what is wrong."""

    def __init__(
        self, name: str, dataset: Dataset, raw: Path, table: DatasetTable, folder: Path
    ) -> None:
        self.name, self.dataset, self.raw, self.table = name, dataset, raw, table
        splits = dataset.pairs(raw)
        self.splits = list(splits)
        self.problems = [*dataset.problems, *split_problems(dataset, splits)]
        self.notes = dataset.notes(raw)
        self.tasks = plan_shards(dataset, splits, folder, table)
        self.summaries = dict[Path, dict[str, Any]]()

    @property
    def images(self) -> int:
        return sum(len(task.pairs) for task in self.tasks)

    def run(self, work: Callable[[Task], dict[str, Any]], mapper: Mapper) -> Iterator[int]:
        """Yields how many images each task has dealt with."""
        for task, summary in mapper(work, self.tasks, self.images // IMAGES_WORTH_A_PROCESS):
            self.summaries[task.path] = summary
            yield len(task.pairs)

    @property
    def parts(self) -> dict[str, list[dict[str, Any]]]:
        """The summaries of every split, in the order of its shards."""
        return {
            split: [self.summaries[task.path] for task in self.tasks if task.split == split]
            for split in self.splits
        }

    def check(self) -> list[list[Place]]:
        """The samples that hold the same picture. Raises InputError that lists all that is wrong,
        but for samples that may be left out."""
        problems, parts = list(self.problems), self.parts
        bad = [
            reason for found in parts.values() for part in found for _, reason in part["problems"]
        ]
        if len(bad) > self.table.skip_bad:
            problems += sorted(bad)
        same = same_pictures(parts)
        if self.dataset.copies_across_splits == "refuse":
            problems += map(_as_problem, filter(across, same))
        for split, found in parts.items():
            if found and not any(part["counts"] for part in found) and not problems:
                problems.append(f"split {split} has no sample left; mend some")
        if problems:
            allowed = self.table.skip_bad
            said = f" (skip_bad allows {allowed} of these {len(bad)})" if allowed and bad else ""
            raise InputError(_listed(self.name, problems, said, self.notes))
        return same

    def manifest(self) -> dict[str, Any]:
        """Raises InputError as ``check`` does."""
        same, dataset, parts = self.check(), self.dataset, self.parts
        for part in (part for found in parts.values() for part in found):
            below = f"{self.raw.absolute()}/"  # equal on all machines
            part["problems"] = [[name, why.replace(below, "")] for name, why in part["problems"]]
        about = self.name, dataset.classes, dataset.licence, self.table
        return build_manifest(*about, parts, same, self.notes)


def prepare(
    name: str,
    dataset: Dataset,
    raw: Path,
    out: Path,
    work: Path,
    table: DatasetTable = UNTOUCHED,
    *,
    mapper: Mapper = in_processes,
    illustrate: Callable[[Path], None] = lambda folder: None,
) -> Iterator[int]:
    """Writes ``out``; yields first how many images are planned, then how many each shard adds.

    Shards are written in ``work``, where ``illustrate`` may add pictures of them; when all is
    there, ``out`` becomes the folder of it and ``work`` goes. Raises InputError that lists every
    problem of the raw files.
    """
    survey = Survey(name, dataset, raw, table, work)
    yield survey.images
    yield from survey.run(write_one, mapper)
    manifest = survey.manifest()
    with written_below(work):
        shards = {path for path, summary in survey.summaries.items() if summary["counts"]}
        summaries = {path.with_suffix(".json") for path in shards}
        for path in set(work.iterdir()) - shards - summaries:  # what killed runs left
            path.unlink()
        write_json(work / MANIFEST, manifest)
        illustrate(work)
        files = sorted(set(work.iterdir()) - summaries)
    with written_below(out.parent):
        put_in_place(files, out.resolve())
    shutil.rmtree(work, ignore_errors=True)


def put_in_place(files: list[Path], out: Path) -> None:
    """Makes ``out`` a folder of these files; they stay, so that this can be done again.

    Where ``out`` is on another disk they are copied: no folder can be renamed to there.
    """
    fresh, old = (out.with_name(f".{out.name}.{age}") for age in ("new", "old"))
    for left in (fresh, old):  # by a run that was killed here
        shutil.rmtree(left, ignore_errors=True)
    try:
        fresh.mkdir(parents=True)
        for path in files:
            link_or_copy(path, fresh / path.name)
        if out.exists():
            out.rename(old)
        fresh.rename(out)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
    shutil.rmtree(old, ignore_errors=True)


def link_or_copy(path: Path, other: Path) -> None:
    try:
        other.hardlink_to(path)
    except OSError:  # another disk, or one that knows no links
        with written_whole(other) as aside:
            shutil.copyfile(path, aside)


def _listed(name: str, problems: list[str], skippable: str, notes: list[str]) -> str:
    remedy = f"mend them and run it again, nothing was prepared{skippable}"
    head = f"dataset {name}: {len(problems)} problem(s); {remedy}"
    return "\n  ".join([in_one_list(head, problems), *(f"beside that: {note}" for note in notes)])


def _as_problem(group: list[Place]) -> str:
    places = ", ".join(f"{name} of {split}" for split, name in group)
    return f"the same picture stands in several splits: {places}; keep it in one"
