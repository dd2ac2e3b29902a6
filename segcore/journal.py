"""``metrics.jsonl``: what happened in a training, a line per event, each step once.

The file is the truth about a training; trackers mirror it.
"""

import json
import math
from pathlib import Path
from typing import Any

from segcore.files import written_whole
from segcore.training import Evaluated, Event, Step

METRICS = "metrics.jsonl"


class Journal:
    """Appends events. A resumed training drops the lines past the step that it resumes from,
    and with them a last line that a kill cut short."""

    def __init__(self, path: Path, resumed_at: int = 0) -> None:
        kept = [line for line in read_lines(path) if line["step"] <= resumed_at]
        with written_whole(path) as aside:
            aside.write_text("".join(json.dumps(line) + "\n" for line in kept))
        self.file = path.open("a", buffering=1)

    def record(self, event: Event) -> None:
        """Steps and evaluations; a save leaves no line."""
        if line := as_line(event):
            self.file.write(json.dumps(line) + "\n")


def as_line(event: Event) -> dict[str, Any] | None:
    if isinstance(event, Step):
        # JSON has no word for what is not finite.
        loss = {"loss": event.loss} if math.isfinite(event.loss) else {}
        return {
            "event": "step",
            "step": event.number,
            **loss,
            "learning_rate": event.learning_rate,
            "seconds": round(event.seconds, 4),
            "data_seconds": round(event.data_seconds, 4),
            **({"skipped": 1} if event.skipped else {}),
        }
    if isinstance(event, Evaluated):
        return {
            "event": "evaluated",
            "step": event.number,
            "miou": event.scores.miou,
            "pixel_accuracy": event.scores.pixel_accuracy,
            "mean_accuracy": event.scores.mean_accuracy,
            "evaluation_seconds": round(event.seconds, 4),
        }
    return None


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The whole lines of a journal; none where it does not exist."""
    if not path.exists():
        return []
    lines = list[dict[str, Any]]()
    for text in path.read_text().splitlines():
        try:
            lines.append(json.loads(text))
        except json.JSONDecodeError:
            break  # cut short by a kill: nothing after it is whole
    return lines
