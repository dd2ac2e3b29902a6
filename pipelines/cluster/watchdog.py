"""A worker that makes no progress says where it stands, and ends; its group then starts again."""

import faulthandler
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

STALL_SECONDS = float(os.environ.get("SEGCORE_STALL_SECONDS", "600"))
"""The longest that a step or an evaluation may take, on the machine that starts the training."""
GRACE_SECONDS = 5
"""All workers hang when one does: each has time to say where before the first one ends."""


@contextmanager
def watched(stacks: Path, seconds: float) -> Iterator[Callable[[], None]]:
    """Gives what to call at every sign of progress.

    ``seconds`` after the last one the stacks of all threads are appended to the file ``stacks``,
    and ``GRACE_SECONDS`` later the process is ended. Neither needs Python to run, so it works
    whatever the process hangs in.
    """
    stacks.parent.mkdir(parents=True, exist_ok=True)
    with stacks.open("a") as file:

        def alive() -> None:
            faulthandler.dump_traceback_later(seconds, file=file)
            signal.setitimer(signal.ITIMER_REAL, seconds + GRACE_SECONDS)

        alive()
        try:
            yield alive
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            faulthandler.cancel_dump_traceback_later()
    if not stacks.stat().st_size:
        stacks.unlink()


def stacks_of(folder: Path, rank: int) -> Path:
    """Where a worker of the training in ``folder`` says where it hangs."""
    return folder / "stacks" / f"rank-{rank:04d}.txt"


def written_stacks(folder: Path) -> list[Path]:
    """The files in which workers of the training in ``folder`` said so."""
    return sorted(path for path in folder.glob("stacks/*.txt") if path.stat().st_size)
