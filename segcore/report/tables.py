"""The leaderboard: one entry per row, and its forms for people and programs."""

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from segcore.errors import InputError
from segcore.files import write_json, written_whole
from segcore.report.gaps import gap
from segcore.report.rows import RowReport, ranked
from segcore.tables import Published

COLUMNS = {
    "dataset": "dataset",
    "row": "row",
    "split": "split",
    "published_miou": "published mIoU %",
    "published_mean_of_both": "published mean of both %",
    "published_pixel_accuracy": "published pixAcc %",
    "miou": "mIoU %",
    "pixel_accuracy": "pixAcc %",
    "mean_accuracy": "mean acc %",
    "interval": "95 % interval",
    "gap": "to the best",
    "fps": "FPS",
    "parameters": "parameters M",
    "flops": "GFLOPs",
    "batch_size": "batch",
    "steps": "steps",
    "hours": "hours",
}
"""What the Markdown table shows, and under which heading; an empty column is left out."""

README_COLUMNS = {
    key: COLUMNS[key]
    for key in ("row", "published_miou", "miou", "interval", "pixel_accuracy", "parameters")
} | {"fps": "FPS", "steps": "steps", "hours": "hours"}
"""What the table of README.md shows."""

MARKS = ("<!-- leaderboard: written by python -m pipelines.readme -->", "<!-- leaderboard ends -->")

PUBLISHED = ("miou", "mean_of_both", "pixel_accuracy")
"""What sources measure, the first of them that one gives being the one compared with."""

WORDS = {"dataset", "row", "split"}


def leaderboard(rows: Sequence[RowReport]) -> list[dict[str, Any]]:
    """One entry per row, by dataset, then by mIoU from the best; None where nothing is known.

    Scores are shares of 1, those of others too; ``interval`` holds the two ends of the 95 %
    interval of ``miou``; ``gap`` is ``miou`` minus that of the dataset's best row, with the ends of
    its paired interval; ``published_mean_of_both`` is (mIoU + pixel accuracy) / 2; ``fps`` is
    measured on one image of ``benchmark_size``; ``flops`` counts a multiply-add as two.
    """
    best = dict[str, RowReport]()
    return [_entry(row, best.setdefault(row.board, row)) for row in ranked(rows)]


def _entry(row: RowReport, best: RowReport) -> dict[str, Any]:
    result, measured, config = row.result, row.benchmark, row.config
    published = Published.model_validate(config["published"]) if config.get("published") else None
    figures = zip(published.metrics, published.score, strict=False) if published else ()
    theirs = {metric: score / 100 for metric, score in figures}  # a source may print no score
    return {
        "dataset": row.dataset,
        "row": row.name,
        "method": config["method"],
        "backbone": config["backbone"],
        "split": row.split,
        "miou": result["miou"],
        "interval": interval(result),
        "gap": gap(best, row),
        "pixel_accuracy": result["pixel_accuracy"],
        "mean_accuracy": result["mean_accuracy"],
        "published_miou": theirs.get("miou"),
        "published_pixel_accuracy": theirs.get("pixel_accuracy"),
        "published_mean_of_both": theirs.get("mean_of_both"),
        "published_by": f"{published.source}, {published.paper}" if published else None,
        "fps": measured["fps"],
        "latency_ms": measured["latency_ms"]["median"],
        "parameters": measured["parameters"],
        "flops": measured["flops"],
        "benchmark_size": measured["image_size"],
        "batch_size": config["batch_size"],
        "steps": config["steps"],
        "hours": round(row.training.hours, 4),
    }


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
    size = {"benchmark_height": height, "benchmark_width": width}
    parts = {"interval": ends, "gap": gaps, "benchmark_size": size}
    columns = (parts.get(key, {key: value}) for key, value in entry.items())
    return {key: value for column in columns for key, value in column.items()}


def markdown(entries: Sequence[dict[str, Any]], columns: dict[str, str]) -> str:
    """A table with those of ``columns`` (key -> heading) that say something of some entry."""
    shown = {k: v for k, v in columns.items() if any(e[k] is not None for e in entries)}
    lines = [
        f"| {' | '.join(shown.values())} |",
        f"|{'|'.join('---' if key in WORDS else '---:' for key in shown)}|",
    ]
    for entry in entries:
        cells = ("" if entry[key] is None else written(key, entry[key]) for key in shown)
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
        case "hours":
            return f"{value:.2f}"
        case "batch_size" | "steps":
            return str(value)
        case "interval":
            return " – ".join(f"{100 * end:.2f}" for end in value)
        case "gap":
            middle, low, high = (f"{100 * each:+.2f}" for each in value)
            return f"{middle} ({low} – {high})"
        case "dataset" | "row" | "split":
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
