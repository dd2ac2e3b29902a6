"""One shard as one unit of work: its samples looked at, counted, written."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from segcore.acquisition.archives import written_below
from segcore.datasets import Dataset, Pair
from segcore.errors import InputError
from segcore.files import hash_of, read_json, sha256_of, write_json
from segcore.preparation.audit import content_hash, counted, summed
from segcore.preparation.images import LabelMap, Picture
from segcore.preparation.pairs import read_pair
from segcore.preparation.treatment import Stored, treated
from segcore.shards import Record, write_shard
from segcore.tables import Treatment
from segcore.types import IGNORE


@dataclass(frozen=True)
class Task:
    """One shard to write: the samples it holds and where it goes."""

    dataset: Dataset
    split: str
    path: Path
    pairs: tuple[Pair, ...]
    treatment: Treatment
    meaning: str
    """Changes when the dataset's options, class table, treatment or the code do."""

    @property
    def summary(self) -> Path:
        """Written after the shard: where both stand, the task is done."""
        return self.path.with_suffix(".json")

    def source(self) -> str:
        """Changes when any raw file of the shard does, or what its labels mean."""
        files = [path for pair in self.pairs for path in (pair.image, pair.label)]
        return hash_of([self.meaning, [pair.id for pair in self.pairs], [*map(_seen, files)]])


def _seen(path: Path) -> tuple[int, int, int] | None:
    """The time of change, too: whoever may read a file from now on changes nothing else in it."""
    try:
        stat = path.stat()
    except OSError:
        return None
    return stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns


@dataclass
class Findings:
    """What is counted, and what is wrong, while the samples of a task pass by."""

    task: Task
    problems: list[list[str]] = field(default_factory=list)
    counts: list[dict[str, Any]] = field(default_factory=list)
    sizes: Counter[tuple[int, int]] = field(default_factory=Counter)
    contents: list[list[str]] = field(default_factory=list)
    unlabelled: list[str] = field(default_factory=list)

    def records(self) -> Iterator[Record]:
        for pair in self.task.pairs:
            try:
                yield from self._records_of(pair)
            except InputError as error:
                self.problems.append([pair.id, str(error)])

    def _records_of(self, pair: Pair) -> Iterator[Record]:
        """All of a sample or none: what a format cannot hold shows in the first of equal tiles."""
        picture, labels = read_pair(self.task.dataset, pair, self.task.treatment)
        for record, pixels, shown, overlap in self._stored(pair, picture, labels):
            self.counts.append(counted(shown, pixels, len(self.task.dataset.classes), overlap))
            self.sizes[record.height, record.width] += 1
            yield record
        self.contents.append([pair.id, content_hash(picture.pixels)])
        if (labels == IGNORE).all():
            self.unlabelled.append(pair.id)

    def _stored(self, pair: Pair, picture: Picture, labels: LabelMap) -> Iterator[Stored]:
        try:
            yield from treated(pair.id, picture, labels, self.task.treatment)
        except ValueError as error:
            raise InputError(f"{pair.image} cannot be stored: {error}") from None

    def summary(self) -> dict[str, Any]:
        return {
            "problems": self.problems,
            "counts": summed(self.counts) if self.counts else {},
            "sizes": [[*size, images] for size, images in sorted(self.sizes.items())],
            "contents": self.contents,
            "unlabelled": self.unlabelled,
        }


def examine(task: Task) -> dict[str, Any]:
    """What ``write_one`` would find; writes nothing."""
    findings = Findings(task)
    rows = sum(1 for _ in findings.records())
    return findings.summary() | {"shard": {"name": task.path.name, "sha256": "", "rows": rows}}


def write_one(task: Task) -> dict[str, Any]:
    """Writes a shard unless it is there, of the samples that can be used; returns its summary.

    Raises InputError where it cannot be written."""
    source = task.source()
    if task.summary.exists() and task.path.exists():
        summary = read_json(task.summary)
        if summary["source"] == source and summary["shard"]["sha256"] == sha256_of(task.path):
            return summary
    findings = Findings(task)
    with written_below(task.path.parent):
        task.summary.unlink(missing_ok=True)
        rows = write_shard(task.path, findings.records(), task.dataset.classes)
        shard = {"name": task.path.name, "sha256": sha256_of(task.path), "rows": rows}
        summary = findings.summary() | {"source": source, "shard": shard}
        if len(findings.problems) <= task.treatment.skip_bad:
            write_json(task.summary, summary)
    return summary
