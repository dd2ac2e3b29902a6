"""The table of results in ``README.md``, from the figures in ``docs/results/leaderboard.json``.

With ``--check`` nothing is written: the end is 2 where the table is not that of the figures.
Otherwise the rows of ``reports/leaderboard.json``, if there is one, first take the place of those
of the same name in ``docs/results/leaderboard.json``; rows that were measured elsewhere stay.
"""

import argparse
from pathlib import Path
from typing import Any

from pipelines.stage import run_safely
from segcore.errors import InputError
from segcore.files import read_json, write_json, written_whole
from segcore.report.tables import README_COLUMNS, between_marks, markdown, with_table

KEPT = Path("docs/results/leaderboard.json")
REMEDY = "run: python -m pipelines.readme"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="only say whether it is stale")
    arguments = parser.parse_args()
    run_safely(lambda: check(Path.cwd()) if arguments.check else write(Path.cwd()))


def check(root: Path) -> None:
    """Raises InputError where README.md does not show the figures that are kept."""
    readme = root / "README.md"
    shown = between_marks(readme.read_text(encoding="utf-8"), str(readme))
    if shown != markdown(read_json(root / KEPT), README_COLUMNS):
        raise InputError(f"{readme} does not show the figures of {KEPT}; {REMEDY}")
    print(f"{readme.name} shows the figures of {KEPT}")


def write(root: Path) -> None:
    fresh, kept = root / "reports/leaderboard.json", root / KEPT
    entries = read_json(kept) if kept.exists() else []
    if fresh.exists():
        entries = merged(entries, read_json(fresh))
    readme = root / "README.md"
    text = readme.read_text(encoding="utf-8")
    text = with_table(text, markdown(entries, README_COLUMNS), str(readme))
    write_json(kept, entries)
    with written_whole(readme) as aside:
        aside.write_text(text, encoding="utf-8")
    print(f"{readme.name} and {KEPT}: {len(entries)} rows")


def merged(kept: list[dict[str, Any]], fresh: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Datasets in the order in which they came, their rows from the best."""
    rows = {entry["row"]: entry for entry in [*kept, *fresh]}
    order = list(dict.fromkeys(entry["dataset"] for entry in [*kept, *fresh]))
    return sorted(rows.values(), key=lambda row: (order.index(row["dataset"]), -row["miou"]))


if __name__ == "__main__":
    main()
