"""A study as MLflow shows it: a parent run, and a child run per trial."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pipelines.ledger import Ledger
from pipelines.lineage import lineage
from pipelines.progress import PlainBar, TerminalBar
from pipelines.tracking import Store, status_of
from segcore.row import Run
from segcore.shards import Manifest


@contextmanager
def studied(
    store: Store, name: str, key: str, run: Run, manifest: Manifest, root: Path
) -> Iterator["Study"]:
    """The parent run of a search. The same ``name`` is the same study, with the same runs."""
    tags = {"row": key, "data_hash": manifest.data_hash, **lineage(root)}
    config, marks = run.model_dump(mode="json"), {**tags, "kind": "study"}
    with store.run(run.dataset, f"tune {key}", config=config, tags=marks, key=name) as parent:
        study = Study(store, name, key, run, tags, parent)
        try:
            store.log_dataset(parent, run.dataset, manifest.data_hash, "shards", "search")
            yield study
        except BaseException as error:
            study.close(status_of(error))
            raise


class Study:
    """What a search leaves in MLflow. Made by ``studied``."""

    def __init__(
        self, store: Store, name: str, key: str, run: Run, tags: dict[str, Any], parent: str
    ) -> None:
        self.store, self.name, self.key, self.run = store, name, key, run
        self.tags, self.parent = tags, parent
        self.ledgers = list[Ledger]()

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
        """Shows what came out on the parent run, when every trial has arrived in its own.

        Raises InputError where the store stays away: the ledgers must be kept then."""
        self.store.await_back()
        self.store.insist(self.close("FINISHED"))
        columns = ["id", *result["space"], "miou", "steps", "status"]
        rows = [[{**t, **t["values"]}.get(c) for c in columns] for t in result["trials"]]
        best = next(t for t in result["trials"] if t["id"] == result["best_trial"])
        figures = {"best_miou": best["miou"]}
        if seeds := result.get("seeds"):
            figures["seeds_miou"] = seeds["mean"]
        self.store.insist(self.store.log_table(self.parent, "trials", columns, rows))
        self.store.insist(self.store.log_metrics(self.parent, figures))
        for picture in pictures:
            self.store.insist(self.store.log_file(self.parent, picture))

    def close(self, status: str) -> bool:
        """Ends the trials; ``status`` is that of those which are not over."""
        closed = [ledger.close(status) for ledger in self.ledgers]
        return all(closed)
