"""The trials of a search: a file of what happened, the table of it, and a run of MLflow each."""

import json
import time
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
RETRY_SECONDS, PATIENCE = 20.0, 10
"""A store that is away is asked again after so long at least, and after so many times as long as
the last try took: the search waits for each."""


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
        self.trials = dict[int, Entry]()  # in the order of their start, as in search.json
        self.runs, self.tracked = dict[int, str](), dict[int, int]()
        """Of a trial, its run and how many points of its curve MLflow has."""
        self.retry_at = 0.0
        self.past = read_lines(path)
        with written_whole(path) as aside:  # without a last line that a kill cut short
            aside.write_text("".join(json.dumps(event) + "\n" for event in self.past))
        self.file = path.open("a", buffering=1)
        for event in self.past:
            self._note(event)
        self.behind = set(self.trials)
        self._catch_up()

    def heard(self, event: Entry) -> None:
        self.file.write(json.dumps(event) + "\n")
        self._note(event)
        self.behind.add(event["trial"])
        if time.monotonic() >= self.retry_at:
            self._catch_up()

    def close(self, status: str) -> bool:
        """``status`` is that of trials which are not over. Another call sends what was missed."""
        self.file.close()
        self.behind |= {n for n, trial in self.trials.items() if trial["status"] not in STATUSES}
        return self._catch_up(status)

    def _note(self, event: Entry) -> None:
        trial = note(self.trials, event)
        if "status" in event:
            said = f"mIoU {trial['miou'] or 0:.3f} ({trial['status']})"
            self.bar.advance(trial["status"] in STATUSES, said)

    def _catch_up(self, status: str | None = None) -> bool:
        """Brings runs up to date, up to the first that the store does not take."""
        for number in sorted(self.behind):
            begun = time.monotonic()
            if not self._track(number, status):
                pause = PATIENCE * (time.monotonic() - begun)
                self.retry_at = time.monotonic() + max(RETRY_SECONDS, pause)
                return False
            self.behind.remove(number)
        return True

    def _track(self, number: int, status: str | None) -> bool:
        trial = self.trials[number]
        try:
            run_id = self._run(number)
        except InputError:
            return False
        for step, miou in trial["history"][self.tracked[number] :]:
            speed = {name: trial[name] for name in trial.keys() & {"latency_ms"}}
            if not self.store.log_metrics(run_id, {"miou": miou, **speed}, step):
                return False
            self.tracked[number] += 1
        ending = STATUSES.get(trial["status"], status)
        return ending is None or self.store.finish(run_id, ending)

    def _run(self, number: int) -> str:
        if number not in self.runs:
            run_id = self.store.start(**self.describe(self.trials[number]))
            with self.store.asked():
                held = self.store.client.get_metric_history(run_id, "miou") if self.past else []
            self.runs[number], self.tracked[number] = run_id, len(held)
        return self.runs[number]
