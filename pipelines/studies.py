"""A study as MLflow shows it: a parent run, and a child run per trial."""

from pathlib import Path
from types import TracebackType
from typing import Any

from pipelines.ledger import Ledger
from pipelines.lineage import lineage
from pipelines.progress import PlainBar, TerminalBar
from pipelines.tracking import Store
from segcore.row import Run
from segcore.shards import Manifest


class Study:
    """The parent run of a search. The same ``name`` is the same study, with the same runs."""

    def __init__(
        self, store: Store, name: str, key: str, run: Run, manifest: Manifest, root: Path
    ) -> None:
        self.store, self.name, self.key, self.run = store, name, key, run
        self.tags = {"row": key, "data_hash": manifest.data_hash, **lineage(root)}
        self.ledgers = list[Ledger]()
        self.parent = store.start(
            run.dataset,
            f"tune {key}",
            config=run.model_dump(mode="json"),
            tags={**self.tags, "kind": "study"},
            key=name,
        )
        store.log_dataset(self.parent, run.dataset, manifest.data_hash, "shards", "search")

    def ledger(self, folder: Path, kind: str, bar: PlainBar | TerminalBar) -> Ledger:
        """Of the trials whose files are in ``folder``: one process writes to it at a time."""

        def describe(trial: dict[str, Any]) -> dict[str, Any]:
            return {
                "experiment": self.run.dataset,
                "name": f"{self.key} {kind} {trial['id']}",
                "config": trial["values"],
                "tags": {**self.tags, "kind": kind},
                "parent": self.parent,
                "key": f"{self.name}-{kind}-{trial['id']}",
            }

        folder.mkdir(parents=True, exist_ok=True)
        ledger = Ledger(folder / "trials.jsonl", self.store, describe, bar)
        self.ledgers.append(ledger)
        return ledger

    def conclude(self, result: dict[str, Any], pictures: list[Path]) -> None:
        """Shows what came out on the parent run."""
        columns = ["id", *result["space"], "miou", "steps", "status"]
        rows = [[{**t, **t["values"]}.get(c) for c in columns] for t in result["trials"]]
        self.store.log_table(self.parent, "trials", columns, rows)
        best = next(t for t in result["trials"] if t["id"] == result["best_trial"])
        figures = {"best_miou": best["miou"]}
        if seeds := result.get("seeds"):
            figures["seeds_miou"] = seeds["mean"]
        self.store.log_metrics(self.parent, figures)
        for picture in pictures:
            self.store.log_file(self.parent, picture)

    def __enter__(self) -> "Study":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        status = (
            "FINISHED" if kind is None else "FAILED" if issubclass(kind, Exception) else "KILLED"
        )
        for ledger in self.ledgers:
            ledger.close(status)
        self.store.finish(self.parent, status)
