"""All rows side by side: ``reports/index.html``, ``leaderboard.md`` and ``leaderboard.json``.

The best row of each dataset is also published under the dataset's own name.
"""

from typing import Any

from pipelines.project import Project
from pipelines.stage import run_stage
from pipelines.tracking import Store, open_store
from segcore.files import read_json
from segcore.reports import leaderboard, read_rows, write_leaderboard, write_page


def main(_key: str, project: Project) -> None:
    names = sorted(project.params.rows)
    rows = read_rows(project.root / "runs", names)
    write_leaderboard(rows, project.reports)
    write_page(rows, project.reports / "index.html")
    store = open_store(project.root)
    board = leaderboard(rows)
    for name in names:
        _log_benchmark(store, name, project)
    for dataset in sorted({entry["dataset"] for entry in board}):
        best = next(entry for entry in board if entry["dataset"] == dataset)
        _publish(store, dataset, best["row"], project)
    print((project.reports / "leaderboard.md").read_text())


def _log_benchmark(store: Store, name: str, project: Project) -> None:
    figures = read_json(project.run(name) / "benchmark.json")
    run_id = read_json(project.run(name) / "registered.json")["run_id"]
    metrics = {key: float(figures[key]) for key in ("parameters", "flops", "fps", "peak_memory_mb")}
    metrics["latency_ms"] = figures["latency_ms"]["median"]
    store.log_metrics(run_id, {f"benchmark.{key}": value for key, value in metrics.items()})


def _publish(store: Store, dataset: str, row: str, project: Project) -> None:
    folder = project.run(row)
    registered: dict[str, Any] = read_json(folder / "registered.json")
    scores = read_json(folder / "scores.json")
    split = read_json(folder / "config.json")["splits"][0]
    score, data_hash = scores["splits"][split]["miou"], scores["data_hash"]
    tags = {"row": row, "row_version": registered["version"]}
    version = store.register(registered["run_id"], dataset, folder, tags=tags)
    decision = store.promote(dataset, version, score=score, data_hash=data_hash)
    print(f"best on {dataset}: {row}, version {version} of model {dataset}; {decision.reason}")


if __name__ == "__main__":
    run_stage(main, keyed=False)
