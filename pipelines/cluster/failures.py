"""What ended a group of workers."""

import json
from pathlib import Path
from typing import Any

import ray.train


class Failures(ray.train.UserCallback):
    """Writes a line per failure of a group. It lives in the process of Ray Train's controller,
    which all workers wait for: so nothing here imports torch."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def after_exception(
        self, run_context: Any, worker_exceptions: dict[int, Exception], **_: Any
    ) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a") as file:
            ranks = sorted(worker_exceptions)
            cause = last_line(worker_exceptions[ranks[0]])
            file.write(json.dumps({"ranks": ranks, "cause": cause}) + "\n")


def last_line(error: BaseException) -> str:
    """What ended a worker, without the layers around it."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
