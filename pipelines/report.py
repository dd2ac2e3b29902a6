"""All rows side by side: ``reports/index.html`` and ``leaderboard.md``, ``.csv`` and ``.json``.

The best row of each dataset is also published under the dataset's own name.
"""

from pathlib import Path

from pipelines.project import Project
from pipelines.registration import describe, held_version
from pipelines.stage import run_stage
from pipelines.tracking import Store, open_store
from segcore.files import read_json
from segcore.report import leaderboard, read_rows, write_leaderboard, write_page


def main(_key: str, project: Project) -> None:
    names = sorted(project.params.rows)
    rows = read_rows(project.root / "runs", names)
    board = leaderboard(rows)
    write_leaderboard(board, project.reports)
    write_page(rows, board, project.root / "data" / "shards", project.reports / "index.html")
    store = open_store(project.root)
    for name in names:
        version = held_version(store, name, project.run(name))
        _log_benchmark(store, version.run_id, project.run(name))
    best = dict[str, str]()
    for entry in board:
        if entry["method"] != "segfix":  # it scores moves, not the dataset's classes
            best.setdefault(entry["dataset"], entry["row"])
    for dataset, row in best.items():
        _publish(store, dataset, row, project)
    print((project.reports / "leaderboard.md").read_text())


def _log_benchmark(store: Store, run_id: str, folder: Path) -> None:
    figures = read_json(folder / "benchmark.json")
    metrics = {key: float(figures[key]) for key in ("parameters", "flops", "fps", "peak_memory_mb")}
    metrics["latency_ms"] = figures["latency_ms"]["median"]
    store.log_metrics(run_id, {f"benchmark.{key}": value for key, value in metrics.items()})


def _publish(store: Store, dataset: str, row: str, project: Project) -> None:
    folder = project.run(row)
    held = held_version(store, row, folder)
    scores = read_json(folder / "scores.json")
    split = read_json(folder / "config.json")["splits"][0]
    score, data_hash = scores["splits"][split]["miou"], scores["data_hash"]
    tags = {"row": row, "row_version": held.number}
    version = store.register(held.run_id, dataset, folder, tags=tags)
    describe(store, dataset, version, folder, project.require_shards(dataset))
    decision = store.promote(dataset, version, score=score, data_hash=data_hash)
    print(f"best on {dataset}: {row}, version {version} of model {dataset}; {decision.reason}")


if __name__ == "__main__":
    run_stage(main, keyed=False)
