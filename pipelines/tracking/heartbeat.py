"""Whether a run's process lives: its own host can see that, others must be told."""

import time
from collections.abc import Mapping
from threading import Event, Thread

from pipelines.processes import is_alive
from pipelines.tracking.connection import Connection

BEAT = "segcore.alive"
SECONDS_BETWEEN_BEATS, SECONDS_TO_DEATH = 60.0, 600.0


class Heartbeat(Thread):
    """Writes the time into a run, as one of its tags, while the context lasts."""

    def __init__(self, store: Connection, run_id: str) -> None:
        super().__init__(name="heartbeat", daemon=True)
        self.store, self.run_id = store, run_id
        self._closing = Event()

    def __enter__(self) -> None:
        self.start()

    def __exit__(self, *_: object) -> None:
        self._closing.set()

    def run(self) -> None:
        set_tag = self.store.client.set_tag
        while not self._closing.wait(SECONDS_BETWEEN_BEATS):
            self.store.tried(set_tag, self.run_id, BEAT, now(), quiet=True)


def now() -> str:
    return f"{time.time():.0f}"


def is_dead(tags: Mapping[str, str]) -> bool:
    """Whether the process of a run with these tags has died; on another host, whether it has been
    silent for long."""
    alive = is_alive(tags.get("segcore.process", ""))
    if alive is None:
        return BEAT in tags and float(now()) - float(tags[BEAT]) > SECONDS_TO_DEATH
    return not alive
