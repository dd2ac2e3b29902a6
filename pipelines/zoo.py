"""The zoo: rows that were published, or that others start from; found, listed and shown."""

import io
from collections.abc import Callable
from pathlib import Path

from ruamel.yaml import YAML

from pipelines.adding import require, written
from segcore.errors import InputError, suggestion
from segcore.params import Params
from segcore.row import Run

ZOO = Path(__file__).parent / "zoo.yaml"
FILTERS: dict[str, Callable[[Run], str]] = {
    "method": lambda run: run.method,
    "backbone": lambda run: run.backbone,
    "dataset": lambda run: run.dataset,
    "split": lambda run: run.splits[0],
    "source": lambda run: run.published.source if run.published else "none",
}


def select(zoo: Params, words: list[str], wanted: dict[str, str]) -> dict[str, Run]:
    """The rows whose names hold all ``words`` and that are what is ``wanted`` of ``FILTERS``.

    Raises InputError where the zoo has nothing of a kind, or nothing at all remains."""
    rows = {name: zoo.resolve(name) for name in zoo.rows}
    for kind, value in wanted.items():
        known = {FILTERS[kind](run) for run in rows.values()}
        if value not in known:
            raise InputError(f"the zoo has no {kind} {value!r}{suggestion(value, known)}")
    found = {
        name: run
        for name, run in rows.items()
        if all(word in name for word in words)
        and all(FILTERS[kind](run) == value for kind, value in wanted.items())
    }
    if not found:
        asked = [*words, *(f"--{kind} {value}" for kind, value in wanted.items())]
        raise InputError(f"the zoo has no row with {' and '.join(asked)}; leave one of them out")
    return found


def lines(rows: dict[str, Run]) -> list[str]:
    """A table: scores as the source prints them, several where it measures several things."""
    table = [("row", "method", "backbone", "dataset", "split", "published", "fps")]
    for name, run in rows.items():
        score = run.published.score if run.published else ()
        fps = run.published.fps if run.published else None
        figures = "/".join(f"{each:.2f}" for each in score) or "-", f"{fps:.2f}" if fps else "-"
        table.append((name, run.method, run.backbone, run.dataset, run.splits[0], *figures))
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in table
    ]


def show(zoo: Params, name: str) -> str:
    """A row with its recipe resolved and its published figures."""
    require(zoo, name)
    run = zoo.resolve(name)
    values = run.model_dump(mode="json", exclude_none=True, exclude_unset=True)
    text, document = io.StringIO(), YAML()
    document.width = 100
    document.dump(written({name: written(values)}), text)
    link = f"# {run.published.link}\n" if run.published else ""
    return link + text.getvalue()
