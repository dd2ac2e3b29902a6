"""A study as MLflow shows it: a parent run, and a child run per trial."""

from pathlib import Path
from types import TracebackType
from typing import Any

from pipelines.lineage import lineage
from pipelines.progress import PlainBar, TerminalBar
from pipelines.tracking import Store
from segcore.row import Run
from segcore.shards import Manifest


class Study:
    """Hears of trials in the process that searches, keeps their table and tracks each as a run."""

    def __init__(
        self,
        store: Store,
        key: str,
        run: Run,
        manifest: Manifest,
        bar: PlainBar | TerminalBar,
        root: Path,
    ) -> None:
        self.store, self.key, self.run, self.bar = store, key, run, bar
        self.tags = {"row": key, "data_hash": manifest.data_hash, **lineage(root)}
        self.trials = dict[str, dict[str, Any]]()
        self.runs = dict[str, str]()
        self.parent = store.start(
            run.dataset,
            f"tune {key}",
            config=run.model_dump(mode="json"),
            tags={**self.tags, "kind": "study"},
        )
        store.log_dataset(self.parent, run.dataset, manifest.data_hash, "shards", "search")

    def __enter__(self) -> "Study":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        status = (
            "FINISHED" if kind is None else "FAILED" if issubclass(kind, Exception) else "KILLED"
        )
        for trial, run_id in self.runs.items():
            if self.trials[trial]["status"] == "running":
                self.store.finish(run_id, status)
        if status == "FINISHED":
            table = self.table()
            columns = ["id", *table[0]["values"], "miou", "steps", "status"]
            rows = [[{**t, **t["values"]}.get(c) for c in columns] for t in table]
            self.store.log_table(self.parent, "trials", columns, rows)
            best = max((t["miou"] for t in table if t["miou"] is not None), default=0.0)
            self.store.log_metrics(self.parent, {"best_miou": best})
        self.store.finish(self.parent, status)

    def started(self, trial: str, values: dict[str, Any]) -> None:
        if trial in self.trials:
            return
        number = len(self.trials)
        self.trials[trial] = {
            "id": f"{number:03d}",
            "values": values,
            "miou": None,
            "steps": 0,
            "status": "running",
            "history": [],
        }
        self.runs[trial] = self.store.start(
            self.run.dataset,
            f"{self.key} trial {number:03d}",
            config=values,
            tags={**self.tags, "kind": "trial"},
            parent=self.parent,
        )

    def reported(self, trial: str, step: int, miou: float) -> None:
        entry = self.trials[trial]
        entry["history"].append([step, miou])
        entry["steps"] = step
        entry["miou"] = max(miou, entry["miou"] or 0.0)
        self.store.log_metrics(self.runs[trial], {"miou": miou}, step)

    def ended(self, trial: str, status: str) -> None:
        entry = self.trials[trial]
        whole = self.run.search is not None and entry["steps"] >= self.run.search.steps
        entry["status"] = "failed" if status == "FAILED" else "finished" if whole else "stopped"
        self.store.finish(self.runs[trial], status)
        self.bar.advance(1, f"mIoU {entry['miou'] or 0:.3f} ({entry['status']})")

    def table(self) -> list[dict[str, Any]]:
        """The trials in the order of their start, as ``search.json`` holds them."""
        return list(self.trials.values())
