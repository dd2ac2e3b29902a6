"""All that the stages wrote about a row, read and checked."""

import json
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from segcore.errors import InputError
from segcore.files import read_json
from segcore.protocols import as_seen

FILES = {"config": "train", "scores": "evaluate", "benchmark": "benchmark", "search": "tune"}
"""The JSON files of a row, each with the stage that writes it; ``lineage.json`` and
``refined.json`` may be absent."""

CURVE_POINTS = 160
"""Points of a loss curve; each is the mean over an equal share of the steps."""

Number = int | float  # JSON writes 1.0 as 1 at times
Point = tuple[Number, Number]


@dataclass(frozen=True)
class Training:
    """What ``metrics.jsonl`` says, shortened: a journal may have as many lines as steps."""

    loss: list[Point]
    """Step and loss, each the mean over one of at most ``CURVE_POINTS`` spans of steps."""
    miou: list[Point]
    """Step and mIoU of every evaluation."""
    hours: float
    """Of steps and evaluations, on the workers' clocks; starts and saves are not in it."""


@dataclass(frozen=True)
class RowReport:
    """All that the stages wrote about one row."""

    name: str
    config: dict[str, Any]
    scores: dict[str, Any]
    training: Training
    benchmark: dict[str, Any]
    search: dict[str, Any]
    lineage: dict[str, Any] | None
    refined: dict[str, Any] | None
    """What SegFix gained; None where the row is not refined."""
    images: list[dict[str, Any]]
    """What can be shown of the deciding split; see ``segcore.gallery``."""

    @property
    def dataset(self) -> str:
        return self.scores["dataset"]

    @property
    def board(self) -> str:
        """What it is compared on: a dataset's classes, or what SegFix tells apart there."""
        return (
            f"{self.dataset}, moves of SegFix"
            if self.config["method"] == "segfix"
            else self.dataset
        )

    @property
    def short_name(self) -> str:
        """The name without its dataset, which the heading already says."""
        return self.name.replace(f"-{self.dataset}", "", 1) or self.name

    @property
    def split(self) -> str:
        return deciding_split(self.scores)

    @property
    def protocol(self) -> str:
        """How images were looked at, in words."""
        return as_seen(self.scores["looked_at"][""], self.result)

    @property
    def measured(self) -> tuple[str, str]:
        """Scores that differ in this do not compare."""
        return self.split, self.protocol

    @property
    def result(self) -> dict[str, Any]:
        return self.scores["splits"][self.split]


def deciding_split(scores: dict[str, Any]) -> str:
    """The first that the row names."""
    return next(iter(scores["splits"]))


class UnfinishedError(InputError):
    """A stage of a row has not run yet; ``remedy`` is the command that runs it."""

    def __init__(self, path: Path, stage: str, row: str) -> None:
        self.remedy = f"dvc repro {stage}@{row}"
        super().__init__(f"{path} is missing; run: {self.remedy}")


def read_rows(runs: Path, names: list[str]) -> list[RowReport]:
    """Reads ``runs/<name>/``. Raises InputError naming a file that is missing and its stage."""
    rows = [_read_row(runs / name, name) for name in names]
    _check_classes(rows)
    return rows


def finished_rows(runs: Path, names: list[str]) -> tuple[list[RowReport], dict[str, str]]:
    """The rows that every stage has finished, and for each other one the command that goes on with
    it. Raises InputError where none is finished."""
    rows, unfinished = list[RowReport](), dict[str, str]()
    for name in names:
        try:
            rows.append(_read_row(runs / name, name))
        except UnfinishedError as error:
            unfinished[name] = error.remedy
    if unfinished and not rows:
        raise InputError(f"no row is finished; run: {next(iter(unfinished.values()))}")
    _check_classes(rows)
    return rows, unfinished


def _check_classes(rows: Sequence[RowReport]) -> None:
    first = dict[str, RowReport]()
    for row in rows:
        other = first.setdefault(row.board, row)
        if row.scores["classes"] != other.scores["classes"]:
            raise InputError(
                f"{other.name} and {row.name} were scored with different classes of "
                f"{row.dataset}; run: dvc repro evaluate@{other.name} evaluate@{row.name}"
            )


def ranked(rows: Sequence[RowReport]) -> list[RowReport]:
    """By dataset; there those measured alike side by side, on ``val`` before other splits, the most
    of them first; among these by mIoU from the best."""
    alike = Counter((row.board, row.measured) for row in rows)

    def place(row: RowReport) -> tuple[Any, ...]:
        many = alike[row.board, row.measured]
        group = row.split != "val", -many, row.measured
        return row.board, *group, -row.result["miou"], row.name

    return sorted(rows, key=place)


def _read_row(folder: Path, name: str) -> RowReport:
    for file, stage in FILES.items():
        _require(folder / f"{file}.json", stage, name)
    _require(folder / "metrics.jsonl", "train", name)
    values = {file: read_json(folder / f"{file}.json") for file in FILES}
    split = deciding_split(values["scores"])
    images = folder / "overlays" / f"{split}-images.json"
    _require(images, "evaluate", name)
    refined = _read_if_there(folder / "refined.json")
    return RowReport(
        name,
        **values,
        training=_read_training(folder / "metrics.jsonl", name),
        lineage=_read_if_there(folder / "lineage.json"),
        refined=refined,
        images=read_json(images),
    )


def _read_if_there(path: Path) -> Any:
    return read_json(path) if path.exists() else None


def _require(path: Path, stage: str, row: str) -> None:
    if not path.exists():
        raise UnfinishedError(path, stage, row)


def _read_training(path: Path, row: str) -> Training:
    losses, scores, seconds = list[tuple[Number, Number | None]](), list[Point](), 0.0
    try:
        with path.open() as lines:
            for line in lines:
                event = json.loads(line)
                if event["event"] == "step" and "loss" in event:  # else it was not finite
                    losses.append((event["step"], event["loss"]))
                elif event["event"] == "evaluated":
                    scores.append((event["step"], event["miou"]))
                seconds += event.get("seconds", 0.0) + event.get("evaluation_seconds", 0.0)
    except json.JSONDecodeError as error:
        raise InputError(f"{path}: {error}; run: dvc repro -f train@{row}") from None
    return Training(mean_of_spans(losses), scores, seconds / 3600)


def mean_of_spans(points: Sequence[tuple[Number, Number | None]]) -> list[Point]:
    """The means over at most ``CURVE_POINTS`` equally long spans; what is no number is left out."""
    finite = [(x, y) for x, y in points if y is not None and math.isfinite(y)]
    size = max(1, math.ceil(len(finite) / CURVE_POINTS))
    spans = (np.array(finite[start : start + size]) for start in range(0, len(finite), size))
    return [(float(x), float(y)) for x, y in (span.mean(axis=0) for span in spans)]
