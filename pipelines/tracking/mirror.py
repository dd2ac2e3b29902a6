"""``metrics.jsonl`` copied into a run while it grows."""

import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from threading import Event, Thread
from typing import Any, NamedTuple

from mlflow import entities

from pipelines.tracking.runs import Runs

METRICS_PER_CALL = 1000
"""A limit of MLflow."""


class Mirror(Thread):
    """Follows a ``metrics.jsonl`` while it grows, and copies it into a run.

    Which steps the run already has is asked of the run, so a store that was away, a second start
    and steps repeated after a resume leave neither a gap nor a double. A point's time is the run's
    start plus the seconds of the steps before it: the same in every replay. ``every`` thins steps
    (a long training would fill the store); ``on_event`` gets each line once, for progress.
    """

    def __init__(
        self,
        store: Runs,
        run_id: str,
        path: Path,
        *,
        every: int = 1,
        on_event: Callable[[dict[str, Any]], None] = lambda event: None,
        interval_seconds: float = 1.0,
        retry_seconds: float = 20.0,
    ) -> None:
        super().__init__(name="metrics mirror", daemon=True)
        self.store, self.run_id, self.path = store, run_id, path
        self.every, self.on_event = every, on_event
        self.interval_seconds, self.retry_seconds = interval_seconds, retry_seconds
        self._closing = Event()
        self._inode, self._offset = 0, 0
        self._elapsed, self._seen = 0.0, dict[str, int]()
        self._waiting: list[Point] = []
        self._origin: int | None = None
        self._retry_at: float | None = None

    def __enter__(self) -> "Mirror":
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def run(self) -> None:
        while not self._closing.wait(self.interval_seconds):
            self._read()
            if self._retry_at is None or time.monotonic() >= self._retry_at:
                self._send()

    def close(self) -> bool:
        """Copies what is left and ends the thread; False where the store did not take all of it.
        To call it again tries again."""
        self._closing.set()
        if self.is_alive():
            self.join()
        self._read()
        return self._send()

    def _read(self) -> None:
        if not self.path.exists():
            return
        with self.path.open("rb") as file:
            stat = os.fstat(file.fileno())
            if stat.st_ino != self._inode or stat.st_size < self._offset:
                self._inode, self._offset = stat.st_ino, 0  # rewritten by a resume: read it again
            file.seek(self._offset)
            whole, newline, _ = file.read().rpartition(b"\n")
        self._offset += len(whole) + len(newline)
        for line in whole.splitlines():
            try:
                event = json.loads(line)
            except ValueError:  # its writer was killed within the line
                continue
            self._queue(event)

    def _queue(self, event: dict[str, Any]) -> None:
        kind, step = event["event"], event.get("step", -1)
        if step <= self._seen.get(kind, -1):
            return
        self._seen[kind] = step
        self.on_event(event)
        self._elapsed += event.get("seconds", 0.0)
        values = {name: value for name, value in event.items() if name not in ("event", "step")}
        if values and (kind != "step" or step % self.every == 0):
            self._waiting.append(Point(kind, step, self._elapsed, values))

    def _send(self) -> bool:
        taken = self.store.tried(self._deliver, quiet=self._retry_at is not None)
        self._retry_at = None if taken else time.monotonic() + self.retry_seconds
        return taken

    def _deliver(self) -> None:
        if self._waiting and self._origin is None:
            self._skip_held()
        origin, self._origin = self._origin, None  # a failure below leaves in doubt what arrived
        while self._waiting and origin is not None:
            count = METRICS_PER_CALL // max(len(point.values) for point in self._waiting)
            metrics = [each for point in self._waiting[:count] for each in point.metrics(origin)]
            self.store.client.log_batch(self.run_id, metrics)
            del self._waiting[:count]
        self._origin = origin

    def _skip_held(self) -> None:
        """Asks the run for its start and for its last step of each kind of event."""
        client, reached = self.store.client, dict[str, int]()
        for point in self._waiting:
            if point.kind not in reached:
                history = client.get_metric_history(self.run_id, next(iter(point.values)))
                reached[point.kind] = max((metric.step for metric in history), default=-1)
        self._waiting = [point for point in self._waiting if point.step > reached[point.kind]]
        self._origin = client.get_run(self.run_id).info.start_time


class Point(NamedTuple):
    """One line on its way to MLflow; ``elapsed`` in seconds of training."""

    kind: str
    step: int
    elapsed: float
    values: dict[str, float]

    def metrics(self, origin: int) -> list[entities.Metric]:
        when = origin + round(self.elapsed * 1000)
        return [
            entities.Metric(name, value, when, self.step) for name, value in self.values.items()
        ]
