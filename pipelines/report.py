"""All rows side by side: ``reports/index.html`` and ``leaderboard.md``, ``.csv`` and ``.json``.

Rows that are not finished are named, no more. The best row of each dataset, of those that were
measured alike, is also published under the dataset's own name.
"""

from pathlib import Path
from typing import Any

from pipelines.project import Project
from pipelines.registration import describe, held_version
from pipelines.stage import run_stage
from pipelines.tracking import Store, open_store
from segcore.errors import InputError
from segcore.files import read_json
from segcore.protocols import looked_at
from segcore.report import (
    RowReport,
    finished_rows,
    leaderboard,
    write_leaderboard,
    write_page,
)


def main(_key: str, project: Project) -> None:
    rows, unfinished = _rows(project)
    board = leaderboard(rows)
    write_leaderboard(board, project.reports)
    shards, page = project.root / "data" / "shards", project.reports / "index.html"
    write_page(rows, board, shards, page, unfinished)
    store = open_store(project.root)
    for folder in (project.run(row.name) for row in rows):
        _log_benchmark(store, held_version(store, folder.name, folder).run_id, folder)
    best = dict[str, dict[str, Any]]()
    for entry in board:
        if entry["method"] != "segfix":  # it scores moves, not the dataset's classes
            best.setdefault(entry["dataset"], entry)
    for entry in best.values():
        _publish(store, entry, project)
    print((project.reports / "leaderboard.md").read_text())
    for name, remedy in unfinished.items():
        print(f"not finished: {name}; run: {remedy}")


def _rows(project: Project) -> tuple[list[RowReport], dict[str, str]]:
    """Those that are finished, and for each other one the command that goes on with it."""
    rows, unfinished = finished_rows(project.root / "runs", sorted(project.params.rows))
    # A row may take its protocols over from another one, and DVC does not see that these changed.
    for row in rows:
        run, scores = project.row(row.name), row.scores
        if (list(scores["splits"]), scores["looked_at"]) != (list(run.splits), looked_at(run)):
            unfinished[row.name] = f"dvc repro --force --single-item evaluate@{row.name}"
    kept = [row for row in rows if row.name not in unfinished]
    if not kept:
        remedy = next(iter(unfinished.values()))
        raise InputError(f"no row is scored as the table says now; run: {remedy}")
    return kept, unfinished


def _log_benchmark(store: Store, run_id: str, folder: Path) -> None:
    figures = read_json(folder / "benchmark.json")
    metrics = {key: float(figures[key]) for key in ("parameters", "flops", "fps", "peak_memory_mb")}
    metrics["latency_ms"] = figures["latency_ms"]["median"]
    store.log_metrics(run_id, {f"benchmark.{key}": value for key, value in metrics.items()})


def _publish(store: Store, entry: dict[str, Any], project: Project) -> None:
    row, dataset = entry["row"], entry["dataset"]
    folder = project.run(row)
    held = held_version(store, row, folder)
    tags = {"row": row, "row_version": held.number}
    version = store.register(held.run_id, dataset, folder, tags=tags)
    describe(store, dataset, version, folder, project.require_shards(dataset))
    decision = store.promote(
        dataset,
        version,
        score=entry["miou"],
        data_hash=read_json(folder / "scores.json")["data_hash"],
        measured=f"{entry['split']}; {entry['protocol']}",
    )
    print(f"best on {dataset}: {row}, version {version} of model {dataset}; {decision.reason}")


if __name__ == "__main__":
    run_stage(main, keyed=False)
