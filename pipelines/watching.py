"""A training as it goes on: a bar and hints for a person, and its curves for MLflow."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pipelines.progress import progress
from pipelines.tracking import Mirror, Store
from pipelines.waiting import DataWait
from segcore.row import Run

MOST_POINTS = 5000
"""Of a curve in MLflow, nearly: of a longer training it has only every so manieth step."""


@contextmanager
def watched(key: str, run: Run, journal: Path, store: Store, run_id: str) -> Iterator[Mirror]:
    """Shows a journal as it grows, and copies it into a run; the mirror may have a rest to send."""
    note, wait = {"loss": "", "miou": ""}, DataWait(run)
    with progress(f"train {key}", run.steps, "steps") as bar:

        def show(event: dict[str, Any]) -> None:
            for figure in note.keys() & event.keys():
                note[figure] = f"{figure} {event[figure]:.3f}"
            bar.advance(event["event"] == "step", " ".join(filter(None, note.values())))
            if hint := wait.hint(event):
                print(hint, flush=True)

        every = max(1, run.steps // MOST_POINTS)
        with Mirror(store, run_id, journal, every=every, on_event=show) as mirror:
            yield mirror
