"""Tells, once, that a training waits too long for its data, and what would help."""

from dataclasses import dataclass
from typing import Any

from segcore.row import Run

WORTH_A_HINT = 0.1
"""The share of the time."""
STEPS = 20
"""Steps per verdict; a first step waits for loaders to start, so it does not count."""


@dataclass
class DataWait:
    """The share of the last steps' time that went into waiting for batches."""

    run: Run
    seconds: float = 0.0
    waited: float = 0.0
    steps: int = -1
    said: bool = False

    def hint(self, event: dict[str, Any]) -> str:
        """A line for a person, or nothing. ``event`` is a line of the journal."""
        if event["event"] != "step" or self.said:
            return ""
        self.steps += 1
        if self.steps:
            self.seconds += event["seconds"]
            self.waited += event["data_seconds"]
        if self.steps < STEPS:
            return ""
        share = self.waited / max(self.seconds, 1e-9)
        self.steps, self.seconds, self.waited = 0, 0.0, 0.0
        self.said = share > WORTH_A_HINT
        return self._line(share) if self.said else ""

    def _line(self, share: float) -> str:
        now = f"loader_workers (now {self.run.loader_workers})"
        cache = "" if self.run.decoded_cache else ", or set decoded_cache to the GB it may take"
        return f"hint: {share:.0%} of the time goes into waiting for data; raise {now}{cache}"
