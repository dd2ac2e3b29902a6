"""The leaderboard: one entry per row, and its forms for people and programs."""

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from segcore.errors import InputError
from segcore.files import write_json, written_whole
from segcore.report.gaps import gap, over_seeds
from segcore.report.rows import Number, RowReport, ranked
from segcore.tables import Published

COLUMNS = {
    "dataset": "dataset",
    "row": "row",
    "split": "split",
    "protocol": "looked at",
    "published_miou": "published mIoU %",
    "published_mean_of_both": "published mean of both %",
    "published_pixel_accuracy": "published pixAcc %",
    "miou": "mIoU %",
    "pixel_accuracy": "pixAcc %",
    "mean_accuracy": "mean acc %",
    "interval": "95 % interval",
    "gap": "to the best",
    "over_seeds": "over seeds",
    "published_crop_miou": "published crop mIoU %",
    "crop_miou": "crop mIoU %",
    "paper_miou": "the paper's mIoU %",
    "published_fps": "published FPS",
    "fps": "FPS",
    "parameters": "parameters M",
    "flops": "GFLOPs",
    "batch_size": "batch",
    "steps": "steps",
    "hours": "hours",
}
"""What the Markdown table shows, and under which heading; an empty column is left out."""

IF_SEVERAL = {"protocol"}
"""Columns that are left out where they say the same of every row, too."""

README_COLUMNS = {
    key: COLUMNS[key]
    for key in (
        *("row", "published_miou", "miou", "interval", "pixel_accuracy", "parameters"),
        *("fps", "steps", "hours", "split", "protocol"),
    )
}
"""What the table of README.md shows."""

MARKS = ("<!-- leaderboard: written by python -m pipelines.readme -->", "<!-- leaderboard ends -->")

CROP = "crop"
"""The protocol that sources' figures on crops stand beside."""

PUBLISHED = ("miou", "mean_of_both", "pixel_accuracy")
"""What sources measure, the first of them that one gives being the one compared with."""

THEIR_SCORES = (
    *(f"published_{metric}" for metric in PUBLISHED),
    "published_crop_miou",
    "paper_miou",
)

WORDS = {"dataset", "row", "split", "protocol"}

MOVES = "Rows of SegFix, scored on where pixels are to move (docs/segfix.md):"


def leaderboard(rows: Sequence[RowReport]) -> list[dict[str, Any]]:
    """One entry per row, in the order of ``ranked``; None where nothing is known.

    Scores are shares of 1, those of others too; ``interval`` holds the two ends of the 95 %
    interval of ``miou``; ``gap`` is ``miou`` minus that of the best row that was measured alike,
    with the ends of its paired interval; ``over_seeds`` is what ``gaps.over_seeds`` gives;
    ``published_mean_of_both`` is (mIoU + pixel accuracy) / 2; ``fps`` is measured on one image of
    ``benchmark_size``; ``flops`` counts a multiply-add as two.
    """
    best, spread = dict[Any, RowReport](), over_seeds(rows)
    return [
        _entry(row, best.setdefault((row.board, row.measured), row), spread.get(row.name))
        for row in ranked(rows)
    ]


def _entry(row: RowReport, best: RowReport, spread: list[Number] | None) -> dict[str, Any]:
    result, measured, config = row.result, row.benchmark, row.config
    return {
        "dataset": row.dataset,
        "board": row.board,
        "row": row.name,
        "method": config["method"],
        "backbone": config["backbone"],
        "split": row.split,
        "protocol": row.protocol,
        "miou": result["miou"],
        "interval": interval(result),
        "gap": gap(best, row),
        "over_seeds": spread,
        "pixel_accuracy": result["pixel_accuracy"],
        "mean_accuracy": result["mean_accuracy"],
        "crop_miou": row.scores.get("protocols", {}).get(CROP, {}).get(row.split, {}).get("miou"),
        **_published(row.scores.get("published")),
        "fps": measured["fps"],
        "latency_ms": measured["latency_ms"]["median"],
        "parameters": measured["parameters"],
        "flops": measured["flops"],
        "benchmark_size": measured["image_size"],
        "batch_size": config["batch_size"],
        "steps": config["steps"],
        "hours": round(row.training.hours, 4),
    }


def _published(values: dict[str, Any] | None) -> dict[str, Any]:
    """What somebody printed, scores as shares of 1; a source may print none."""
    if not values:
        return dict.fromkeys((*THEIR_SCORES, "published_fps", "published_by"))
    said = Published.model_validate(values)
    on_crops = dict(zip(said.metrics, said.crop_score, strict=False))
    printed = {
        f"published_{metric}": on for metric, on in zip(said.metrics, said.score, strict=False)
    }
    printed |= {"published_crop_miou": on_crops.get("miou"), "paper_miou": said.paper_score}
    shares = {key: None if each is None else each / 100 for key, each in printed.items()}
    by = f"{said.source}, {said.paper}"
    return dict.fromkeys(THEIR_SCORES) | shares | {"published_fps": said.fps, "published_by": by}


def comparison(entry: dict[str, Any]) -> tuple[str, float, float] | None:
    """What the source of a row measured, its figure and ours; None where it printed none."""
    ours = entry | {"mean_of_both": (entry["miou"] + entry["pixel_accuracy"]) / 2}
    both = ((metric, entry[f"published_{metric}"], ours[metric]) for metric in PUBLISHED)
    return next((each for each in both if each[1] is not None), None)


def interval(result: dict[str, Any]) -> list[float] | None:
    """The ends of the 95 % interval of a split's mIoU; None where scores hold no intervals."""
    return result.get("intervals", {}).get("miou")


def write_leaderboard(entries: Sequence[dict[str, Any]], folder: Path) -> None:
    """Writes leaderboard.md, leaderboard.csv and leaderboard.json into ``folder``."""
    write_json(folder / "leaderboard.json", entries)
    with written_whole(folder / "leaderboard.md") as aside:
        aside.write_text(markdown(entries, COLUMNS), encoding="utf-8")
    with written_whole(folder / "leaderboard.csv") as aside, aside.open("w", newline="") as file:
        flat = [_flat(entry) for entry in entries]
        table = csv.DictWriter(file, list(flat[0]) if flat else [], lineterminator="\n")
        table.writeheader()
        table.writerows(flat)


def _flat(entry: dict[str, Any]) -> dict[str, Any]:
    """Two columns for what has two parts."""
    low, high = entry["interval"] or (None, None)
    height, width = entry["benchmark_size"]
    ends = {"miou_low": low, "miou_high": high}
    gaps = dict(zip(("gap", "gap_low", "gap_high"), entry["gap"] or [None] * 3, strict=True))
    seeds = ("seeds_miou", "seeds_low", "seeds_high", "seeds")
    spread = dict(zip(seeds, entry["over_seeds"] or [None] * 4, strict=True))
    size = {"benchmark_height": height, "benchmark_width": width}
    parts = {"interval": ends, "gap": gaps, "over_seeds": spread, "benchmark_size": size}
    columns = (parts.get(key, {key: value}) for key, value in entry.items())
    return {key: value for column in columns for key, value in column.items()}


def markdown(entries: Sequence[dict[str, Any]], columns: dict[str, str]) -> str:
    """A table with those of ``columns`` (key -> heading) that say something of some entry; rows of
    SegFix, whose classes are moves, have one of their own below it."""
    moves = [entry for entry in entries if entry["method"] == "segfix"]
    others = [entry for entry in entries if entry not in moves]
    if not moves:
        return _table(others, columns)
    below = f"{MOVES}\n\n{_table(moves, columns)}"
    return f"{_table(others, columns)}\n{below}" if others else below


def _table(entries: Sequence[dict[str, Any]], columns: dict[str, str]) -> str:
    shown = dict[str, str]()
    for key, heading in columns.items():
        said = {str(entry.get(key)) for entry in entries if entry.get(key) is not None}
        if len(said) > (key in IF_SEVERAL):
            shown[key] = heading
    lines = [
        f"| {' | '.join(shown.values())} |",
        f"|{'|'.join('---' if key in WORDS else '---:' for key in shown)}|",
    ]
    for entry in entries:
        values = {key: entry.get(key) for key in shown}
        cells = ("" if each is None else written(key, each) for key, each in values.items())
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def written(key: str, value: Any) -> str:
    """A figure of an entry as people read it, in the unit that ``COLUMNS`` names."""
    match key:
        case "parameters":
            return f"{value / 1e6:.2f}"
        case "flops":
            return f"{value / 1e9:.2f}"
        case "fps":
            return f"{value:.1f}"
        case "published_fps":
            return f"{value:.2f}"
        case "hours":
            return f"{value:.2f}"
        case "batch_size" | "steps":
            return str(value)
        case "interval":
            return " – ".join(f"{100 * end:.2f}" for end in value)
        case "gap":
            middle, low, high = (f"{100 * each:+.2f}" for each in value)
            return f"{middle} ({low} – {high})"
        case "over_seeds":
            middle, low, high = (f"{100 * each:.2f}" for each in value[:3])
            return f"{middle} ({low} – {high}), {value[3]} seeds"
        case "dataset" | "row" | "split" | "protocol":
            return value.replace("|", "\\|").replace("<", "&lt;")
    return f"{100 * value:.2f}"


def between_marks(text: str, name: str) -> str:
    """The table that stands between ``MARKS``. Raises InputError where they do not stand once."""
    begin, end = MARKS
    if text.count(begin) != 1 or text.count(end) != 1 or text.index(begin) > text.index(end):
        raise InputError(f"{name} must hold these two lines once: {begin} and, below it, {end}")
    return text[text.index(begin) + len(begin) : text.index(end)].strip("\n") + "\n"


def with_table(text: str, table: str, name: str) -> str:
    """``text`` with the table between its marks replaced. Raises InputError as above."""
    between_marks(text, name)
    begin, end = MARKS
    before, after = text[: text.index(begin)], text[text.index(end) :]
    return f"{before}{begin}\n\n{table}\n{after}"
