"""The trials of a search: a file of what happened, the table of it, and a run of MLflow each."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pipelines.progress import PlainBar, TerminalBar
from pipelines.tracking import Store
from segcore.errors import InputError
from segcore.files import written_whole
from segcore.findings import note
from segcore.journal import read_lines

Entry = dict[str, Any]
STATUSES = {"finished": "FINISHED", "stopped": "FINISHED", "failed": "FAILED"}
"""Of a trial that is over, as MLflow calls them."""


class Ledger:
    """Hears of trials in the process that searches. What it heard is in its file before anything
    else, so that a search that is killed goes on from ``past``; MLflow catches up."""

    def __init__(
        self,
        path: Path,
        store: Store,
        describe: Callable[[Entry], Entry],
        bar: PlainBar | TerminalBar,
    ) -> None:
        """``describe`` makes of a trial what ``Store.start`` takes."""
        self.store, self.describe, self.bar = store, describe, bar
        self.trials = dict[int, Entry]()
        self.runs = dict[int, str]()
        self.tracked = dict[int, int]()
        """How many points of a trial's curve MLflow has."""
        self.behind = set[int]()
        self.past = read_lines(path)
        with written_whole(path) as aside:  # without a last line that a kill cut short
            aside.write_text("".join(json.dumps(event) + "\n" for event in self.past))
        self.file = path.open("a", buffering=1)
        for event in self.past:
            self._note(event)
        for number in self.trials:
            self._track(number)

    def heard(self, event: Entry) -> None:
        self.file.write(json.dumps(event) + "\n")
        self._note(event)
        self._track(event["trial"])

    def close(self, status: str) -> None:
        """``status`` is that of trials which are not over."""
        self.file.close()
        for number, trial in self.trials.items():
            if trial["status"] not in STATUSES or number in self.behind:
                self._track(number, status)

    def table(self) -> list[Entry]:
        """The trials in the order of their start, as ``search.json`` holds them."""
        return list(self.trials.values())

    def _note(self, event: Entry) -> None:
        trial = note(self.trials, event)
        if event["event"] == "ended":
            said = f"mIoU {trial['miou'] or 0:.3f} ({trial['status']})"
            self.bar.advance(trial["status"] in STATUSES, said)

    def _track(self, number: int, status: str | None = None) -> None:
        """Brings the trial's run up to date; a store that is away is caught up with later."""
        trial = self.trials[number]
        self.behind.add(number)
        try:
            run_id = self._run(number)
        except InputError:
            return
        for step, miou in trial["history"][self.tracked[number] :]:
            speed = {name: trial[name] for name in trial.keys() & {"latency_ms"}}
            if not self.store.log_metrics(run_id, {"miou": miou, **speed}, step):
                return
            self.tracked[number] += 1
        ending = STATUSES.get(trial["status"], status)
        if ending is None or self.store.finish(run_id, ending):
            self.behind.discard(number)

    def _run(self, number: int) -> str:
        if number not in self.runs:
            run_id = self.store.start(**self.describe(self.trials[number]))
            with self.store.asked():
                held = self.store.client.get_metric_history(run_id, "miou") if self.past else []
            self.runs[number], self.tracked[number] = run_id, len(held)
        return self.runs[number]
