"""One HTML page that needs no other file and no network.

The leaderboards are text in it; all else is drawn by the scripts of ``web/`` from one JSON value,
when it is looked at: a page may hold 144 rows with 150 classes.
"""

import json
from collections.abc import Mapping, Sequence
from importlib.resources import files
from itertools import groupby
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, Template

from segcore.errors import InputError
from segcore.files import written_whole
from segcore.report.contents import board_contents
from segcore.report.images import listed_images
from segcore.report.rows import RowReport, ranked
from segcore.report.tables import comparison, written
from segcore.samples import prepared_data

SCRIPTS = ("elements", "tables", "charts", "parts", "images", "search", "page")
"""Those of ``web/``, each after those that it needs."""


def write_page(
    rows: Sequence[RowReport],
    entries: Sequence[dict[str, Any]],
    shards: Path,
    path: Path,
    unfinished: Mapping[str, str] | None = None,
) -> None:
    """Writes the page; equal rows, equal bytes.

    ``entries`` are those of the leaderboard; ``unfinished`` rows are named with the command that
    goes on with each. A dataset that is prepared below ``shards`` is shown with its audit. Raises
    InputError where there is no row.
    """
    if not rows:
        raise InputError("there is no row to report: params.yaml names none")
    boards = {
        board: list(group) for board, group in groupby(ranked(rows), key=lambda row: row.board)
    }
    shown = listed_images(boards)
    by_row = {entry["row"]: entry for entry in entries}
    tables = {board: [by_row[row.name] for row in group] for board, group in boards.items()}
    prepared = {board: prepared_data(shards / board) for board in boards}
    contents = [
        board_contents(group, tables[board], prepared[board], shown[board])
        for board, group in boards.items()
    ]
    html = _template().render(
        boards=[
            {"name": board, "entries": tables[board], "rows": group}
            for board, group in boards.items()
        ],
        contents=_json_in_html(contents),
        unfinished=unfinished or {},
        style=_web("page.css"),
        script="\n".join(_web(f"{name}.js") for name in SCRIPTS),
    )
    with written_whole(path) as aside:
        aside.write_text(html, encoding="utf-8")


def _template() -> Template:
    environment = Environment(
        loader=PackageLoader("segcore.report", "web"),
        autoescape=True,  # row and class names are whatever people wrote
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals |= {"comparison": comparison, "written": written}
    return environment.get_template("page.html.jinja")


def _web(name: str) -> str:
    return (files("segcore.report") / "web" / name).read_text(encoding="utf-8")


def _json_in_html(value: Any) -> str:
    """JSON that cannot end the element it stands in, whatever people named their classes."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c")
