"""Finished rows -> a leaderboard (Markdown, JSON) and one self-contained page (HTML)."""

import base64
import io
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from PIL import Image

from segcore.errors import InputError
from segcore.files import read_json, write_json, written_whole
from segcore.pictures import Axis, Number, best_median_worst, search_axes
from segcore.samples import prepared_data

FILES = {"config": "train", "scores": "evaluate", "benchmark": "benchmark", "search": "tune"}
"""The JSON files of a row, each with the stage that writes it; ``lineage.json`` may be absent."""

IMAGE_BYTES = 2_000_000
"""What all pictures of a page may take before base64: it keeps a page below 5 MB."""

CURVE_POINTS = 160
"""Points of a loss curve; each is the mean over an equal share of the steps."""

Point = tuple[Number, Number]


@dataclass(frozen=True)
class RowReport:
    """All that the stages wrote about one row."""

    name: str
    config: dict[str, Any]
    scores: dict[str, Any]
    events: list[dict[str, Any]]
    benchmark: dict[str, Any]
    search: dict[str, Any]
    lineage: dict[str, Any] | None
    overlays: dict[str, Path]
    """Best, median and worst image of the deciding split -> its strip."""

    @property
    def dataset(self) -> str:
        return self.scores["dataset"]

    @property
    def short_name(self) -> str:
        """The name without its dataset, which the heading already says."""
        return self.name.replace(f"-{self.dataset}", "", 1) or self.name

    @property
    def split(self) -> str:
        """The split that decides: the first that the row names, else the first that was scored."""
        return next(iter([*self.config.get("splits", ()), *self.scores["splits"]]))

    @property
    def result(self) -> dict[str, Any]:
        return self.scores["splits"][self.split]

    @cached_property
    def shares(self) -> np.ndarray:
        """The confusion matrix over its row sums: [labelled, predicted]; absent classes are 0."""
        counts = np.array(self.result["confusion"], dtype=float)
        return counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)


def read_rows(runs: Path, names: list[str]) -> list[RowReport]:
    """Reads ``runs/<name>/``. Raises InputError naming a file that is missing and its stage."""
    return [_read_row(runs / name, name) for name in names]


def leaderboard(rows: Sequence[RowReport]) -> list[dict[str, Any]]:
    """One entry per row, by dataset, then by mIoU from the best. Scores are shares of 1."""
    return [
        {
            "dataset": row.dataset,
            "row": row.name,
            "method": row.config["method"],
            "backbone": row.config["backbone"],
            "split": row.split,
            "miou": row.result["miou"],
            "pixel_accuracy": row.result["pixel_accuracy"],
            "mean_accuracy": row.result["mean_accuracy"],
            "fps": row.benchmark["fps"],
            "parameters": row.benchmark["parameters"],
            "batch_size": row.config["batch_size"],
            "steps": row.config["steps"],
        }
        for row in _ranked(rows)
    ]


def write_leaderboard(rows: Sequence[RowReport], folder: Path) -> None:
    """Writes leaderboard.md and leaderboard.json into ``folder``."""
    entries = leaderboard(rows)
    write_json(folder / "leaderboard.json", entries)
    lines = [
        "| dataset | row | method | backbone | mIoU % | pixAcc % | mean acc % | FPS | parameters M "
        "| batch | steps |",
        "|---|---|---|---|" + "---:|" * 7,
    ]
    for entry in entries:
        words = [_markdown(entry[key]) for key in ("dataset", "row", "method", "backbone")]
        scores = [f"{100 * entry[key]:.2f}" for key in ("miou", "pixel_accuracy", "mean_accuracy")]
        speed = [f"{entry['fps']:.1f}", f"{entry['parameters'] / 1e6:.2f}"]
        counts = [str(entry["batch_size"]), str(entry["steps"])]
        lines.append(f"| {' | '.join(words + scores + speed + counts)} |")
    with written_whole(folder / "leaderboard.md") as aside:
        aside.write_text("\n".join(lines) + "\n", encoding="utf-8")


def write_page(rows: Sequence[RowReport], shards: Path, path: Path) -> None:
    """Writes one HTML page that needs no other file and no network; equal rows, equal bytes.

    A dataset that is prepared below ``shards`` is shown with its audit.
    """
    if not rows:
        raise InputError("there is no row to report: params.yaml names none")
    environment = Environment(
        loader=PackageLoader("segcore", ""),
        autoescape=True,  # row and class names are whatever people wrote
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    functions = (confusions, loss_curve, pareto_front, picture, spread_labels)
    functions += (Axis, best_median_worst, prepared_data, search_axes)
    environment.globals |= {function.__name__: function for function in functions}
    groups = groupby(_ranked(rows), key=lambda row: row.dataset)
    html = environment.get_template("report.html.jinja").render(
        datasets={dataset: list(group) for dataset, group in groups},
        shards=shards,
        picture_bytes=min(160_000, IMAGE_BYTES // sum(len(row.overlays) + 2 for row in rows)),
    )
    with written_whole(path) as aside:
        aside.write_text(html, encoding="utf-8")


def pareto_front(points: Sequence[Point]) -> list[int]:
    """The indices of the (speed, accuracy) points that no other beats in both, fastest first."""
    best, front = -math.inf, list[int]()
    for index in sorted(range(len(points)), key=lambda i: (-points[i][0], -points[i][1])):
        if points[index][1] > best:
            best = points[index][1]
            front.append(index)
    return front


def spread_labels(points: Sequence[Point], names: Sequence[str], width: Number) -> list[Point]:
    """Where the text of each point starts (left end, baseline; pixels), so that texts cover
    neither each other nor a point where a free place is near; letters count 6.8 x 14 pixels."""
    taken = [(x - 6, y - 6, x + 6, y + 6) for x, y in points]
    places = list[Point]()
    for (x, y), name in zip(points, names, strict=True):
        length = 6.8 * len(name)
        lefts = (x + 10, x - 10 - length, x - length / 2)
        tries = [(left, y + 4) for left in lefts[:2]]  # beside it, else above, below, further off
        tries += [(left, y + drop) for drop in (-12, 20, -27, 35, -42, 50) for left in lefts]
        tries = [place for place in tries if 0 <= place[0] <= width - length] or tries[:1]
        boxes = [(left, base - 11, left + length, base + 3) for left, base in tries]
        free = (i for i, box in enumerate(boxes) if not any(_overlap(box, it) for it in taken))
        chosen = next(free, 0)
        taken.append(boxes[chosen])
        places.append(tries[chosen])
    return places


def loss_curve(events: Sequence[dict[str, Any]]) -> list[Point]:
    """(step, loss), each the mean over one of at most ``CURVE_POINTS`` equal spans of steps."""
    steps = [(event["step"], event["loss"]) for event in events if event["event"] == "step"]
    steps = [(step, loss) for step, loss in steps if loss is not None and math.isfinite(loss)]
    size = max(1, math.ceil(len(steps) / CURVE_POINTS))
    spans = (np.array(steps[start : start + size]) for start in range(0, len(steps), size))
    return [(float(step), float(loss)) for step, loss in (span.mean(axis=0) for span in spans)]


def confusions(row: RowReport, most: int = 6) -> list[tuple[float, str, str]]:
    """The worst confusions, largest first: share of the labelled class, its name, predicted as."""
    wrong = row.shares - np.diag(np.diag(row.shares))
    worst = np.argsort(-wrong, axis=None, kind="stable")[:most]
    pairs = [divmod(int(index), len(wrong)) for index in worst]
    names = row.scores["classes"]
    return [(float(wrong[i, j]), names[i], names[j]) for i, j in pairs if wrong[i, j] > 0]


def picture(path: Path, most_bytes: int) -> str:
    """An image as a data URI (WebP), made smaller and coarser only until it fits."""
    with Image.open(path) as image:
        full = image.convert("RGB")
    data = b""
    for width in (1440, 1080, 720, 480, 240):
        small = full.copy()
        small.thumbnail((width, full.height), Image.Resampling.LANCZOS)
        options: list[dict[str, Any]] = [{"quality": 85}, {"quality": 60}]
        if 3 * small.width * small.height < 4 * most_bytes:  # else it would hardly fit
            options.insert(0, {"lossless": True})
        for option in options:
            small.save(file := io.BytesIO(), format="WEBP", **option)
            data = file.getvalue()
            if len(data) <= most_bytes:
                return _data_uri(data)
    return _data_uri(data)


def _read_row(folder: Path, name: str) -> RowReport:
    for file, stage in FILES.items():
        _require(folder / f"{file}.json", stage, name)
    _require(folder / "metrics.jsonl", "train", name)
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    try:
        events = [json.loads(line) for line in lines if line]
    except json.JSONDecodeError as error:
        where = folder / "metrics.jsonl"
        raise InputError(f"{where}: {error}; run: dvc repro -f train@{name}") from None
    values = {file: read_json(folder / f"{file}.json") for file in FILES}
    lineage = folder / "lineage.json"
    known = read_json(lineage) if lineage.exists() else None
    row = RowReport(name, **values, events=events, lineage=known, overlays={})
    for kind in best_median_worst(row.result["per_image"]):
        row.overlays[kind] = folder / "overlays" / f"{row.split}-{kind}.png"
        _require(row.overlays[kind], "evaluate", name)
    return row


def _require(path: Path, stage: str, row: str) -> None:
    if not path.exists():
        raise InputError(f"{path} is missing; run: dvc repro {stage}@{row}")


def _ranked(rows: Sequence[RowReport]) -> list[RowReport]:
    return sorted(rows, key=lambda row: (row.dataset, -row.result["miou"], row.name))


def _overlap(a: tuple[Number, ...], b: tuple[Number, ...]) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def _data_uri(data: bytes) -> str:
    return f"data:image/webp;base64,{base64.b64encode(data).decode()}"


def _markdown(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;")
