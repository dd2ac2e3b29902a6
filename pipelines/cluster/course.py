"""Where a search stands: which trials run, what comes next, what is over.

All of it follows from the events that the listener was told, in their order. So a search that was
killed goes on from them: no trial is proposed twice, and what was decided stays so.
"""

import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from shutil import rmtree
from typing import Any

from pipelines.cluster.halving import Halving
from pipelines.cluster.population import Population
from pipelines.cluster.proposing import Proposal, Sampled, Strategy
from segcore.errors import InputError
from segcore.search import Search
from segcore.tables import Options

Event = dict[str, Any]
"""``event``, ``trial`` and: of "started" its ``values``; of "reported" the ``step``, ``miou``,
``seconds`` since the last and so on; of "ended" the ``status`` (finished, stopped, paused, failed)
and the ``error``; of "dropped", which a paused trial is when the search is over, its ``status``
(stopped)."""

FIGURES = "step", "miou", "latency_ms", "seconds"
STRATEGIES: dict[str, Callable[[Search, int], Strategy]] = {"asha": Halving, "pbt": Population}


class Course:
    """``hold`` is what a trial takes of a cluster's CPU and GPU."""

    def __init__(
        self,
        search: Search,
        seed: int,
        folder: Path,
        hold: Mapping[str, float],
        concurrent: int,
        listener: Callable[[Event], None],
    ) -> None:
        self.search, self.folder, self.hold = search, folder, hold
        self.concurrent, self.listener = concurrent, listener
        self.strategy: Strategy = STRATEGIES.get(search.algorithm, Sampled)(search, seed)
        self.running = dict[int, Proposal]()
        self.left = list[Proposal]()
        """Trials that were running when the search was cut off."""
        self.steps = dict[int, int]()
        self.values = dict[int, Options]()
        self.scores = dict[int, float]()
        self.best: int | None = None
        self.paused = set[int]()
        self.failed = dict[int, str]()
        self.over = set[int]()
        """Running trials that were told to stop."""
        self.spent = {"hours": 0.0, "cpu_hours": 0.0, "gpu_hours": 0.0}
        self.earlier, self.begun = 0.0, time.monotonic()

    def __reduce__(self) -> tuple[type[object], tuple[()]]:
        return object, ()  # Ray pickles all that it is given; this is for this process alone

    def replay(self, past: Iterable[Event]) -> None:
        """Takes a search up again. Raises InputError where these cannot be its events."""
        for event in past:
            if event["event"] == "started":
                proposal = self.strategy.again(event["trial"])
                if proposal is None or proposal.values != event["values"]:
                    raise InputError(
                        f"{self.folder} holds a search of which this one is no continuation (other "
                        "versions of the libraries?); delete it to start afresh"
                    )
                self.running[proposal.number] = proposal
            self._take(event)
        self.earlier = 3600 * self.spent["hours"]
        for number, proposal in list(self.running.items()):
            whole = self.steps.get(number, 0) >= proposal.until
            if whole or number in self.over or self.budget_is_spent:
                self.ended(number)
            else:
                self.left.append(proposal)
        self._drop()

    @property
    def budget_is_spent(self) -> bool:
        limits = {name: getattr(self.search, name) for name in self.spent}
        return any(limit and self.spent[name] >= limit for name, limit in limits.items())

    @property
    def is_over(self) -> bool:
        """Whether there is no trial any more, running or to come."""
        return not self.running and (self.strategy.exhausted or self.budget_is_spent)

    def next(self) -> Proposal | None:
        """What to start now, if anything."""
        if self.left:
            return self.left.pop(0)
        if len(self.running) >= self.concurrent or self.budget_is_spent:
            return None
        proposal = self.strategy.propose()
        if proposal:
            self.running[proposal.number] = proposal
            self._tell("started", proposal.number, {"values": proposal.values})
        return proposal

    def order(self, proposal: Proposal) -> dict[str, Any]:
        """What the process of a trial has to know of it."""
        number, values, until, source = proposal
        other = source and (str(self.place(source[0])), source[1], self.values[source[0]])
        return {
            "folder": str(self.place(number)),
            "values": values,
            "until": until,
            "reported": self.steps.get(number, 0),
            "source": other,
        }

    def reported(self, number: int, figures: Mapping[str, Any]) -> bool:
        """Whether the trial ends here. What was reported before is not heard again."""
        if "failed" in figures:
            self.failed[number] = figures["failed"]
            return True
        # Ray repeats its own figures, without a step, of a trial that ends without a report: one
        # that was to go on though its patience was at its end.
        if figures.get("step", 0) > self.steps.get(number, 0):
            known = {name: figures[name] for name in FIGURES if name in figures}
            elapsed = self.earlier + time.monotonic() - self.begun
            self._tell("reported", number, {**known, "elapsed": round(elapsed, 1)})
        return number in self.over

    def ended(self, number: int) -> None:
        """Nothing more comes from this trial."""
        if number not in self.steps:
            self.failed.setdefault(number, "it ended without a score")
        step = self.steps.get(number, 0)
        if error := self.failed.get(number):
            outcome = {"status": "failed", "error": error}
        elif step >= self.search.steps:
            outcome = {"status": "finished"}
        else:
            paused = step >= self.running[number].until
            outcome = {"status": "paused" if paused else "stopped"}
        self._tell("ended", number, outcome)
        self._drop()

    def place(self, number: int) -> Path:
        return self.folder / "trials" / f"{number:03d}"

    def _drop(self) -> None:
        """Of what nobody goes on with, only the checkpoints of the best trial stay. All that are
        paused keep theirs: nobody knows how many will fail of those that have gone on."""
        needed = set[int]() if self.is_over else self.paused.union(self.strategy.needed)
        for number in self.steps.keys() - self.running.keys() - needed - {self.best}:
            for checkpoint in self.place(number).glob("step-*"):
                rmtree(checkpoint, ignore_errors=True)  # its workers may still write
        if self.is_over:
            for number in sorted(self.paused):
                self._tell("dropped", number, {"status": "stopped"})

    def _tell(self, kind: str, number: int, what: dict[str, Any]) -> None:
        event = {"event": kind, "trial": number, **what}
        self.listener(event)
        self._take(event)

    def _take(self, event: Event) -> None:
        number = event["trial"]
        match event["event"]:
            case "started":
                self.values[number] = event["values"]
                self.paused.discard(number)
            case "reported":
                self.steps[number] = event["step"]
                self.scores[number] = max(event["miou"], self.scores.get(number, 0.0))
                self._spend(event)
                self.strategy.reported(number, event["step"], event)
                if self.budget_is_spent:
                    self.over.add(number)
            case "ended":
                del self.running[number]
                self.over.discard(number)
                self.strategy.ended(number, event["status"])
                if event["status"] == "failed":
                    self.scores.pop(number, None)
                ended = self.scores.keys() - self.running.keys()
                self.best = max(ended, key=lambda n: (self.scores[n], -n), default=None)
                if event["status"] == "paused":
                    self.paused.add(number)
            case "dropped":
                self.paused.discard(number)

    def _spend(self, event: Event) -> None:
        hours = event["seconds"] / 3600
        self.spent["hours"] = event["elapsed"] / 3600
        self.spent["cpu_hours"] += hours * self.hold.get("CPU", 0.0)
        self.spent["gpu_hours"] += hours * self.hold.get("GPU", 0.0)
