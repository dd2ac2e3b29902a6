"""What ended a group of workers, told while it happens: its next start is silent otherwise."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Event, Thread

from pipelines.cluster.requirements import capacity, resources
from segcore.journal import read_lines
from segcore.row import Run

SECONDS_BETWEEN_LOOKS = 2.0


@contextmanager
def told(path: Path, run: Run, tell: Callable[[str], None]) -> Iterator[None]:
    """Tells of each new failure in ``path``, and of a cluster that has become too small."""
    closing = Event()
    watching = Thread(target=_watch, args=(path, run, tell, closing), name="failures", daemon=True)
    watching.start()
    try:
        yield
    finally:
        closing.set()
        watching.join(2 * SECONDS_BETWEEN_LOOKS)


def _watch(path: Path, run: Run, tell: Callable[[str], None], closing: Event) -> None:
    known, waiting = len(read_lines(path)), ""
    while not closing.wait(SECONDS_BETWEEN_LOOKS):
        lines = read_lines(path)
        for line in lines[known:]:
            tell(f"worker {_listed(line['ranks'])} failed ({line['cause']}); starting again")
        known = len(lines)
        try:
            lacking = _lacking(run)
        except Exception:  # the cluster is gone, which whoever waits for its workers will say
            return
        if lacking and not waiting:
            tell(f"training waits for {lacking}; it goes on when nodes are back")
        waiting = lacking


def _listed(ranks: list[int]) -> str:
    return ", ".join(map(str, ranks))


def _lacking(run: Run) -> str:
    has = capacity()
    needs = {kind: count * run.least_workers for kind, count in resources(run).items()}
    return ", ".join(
        f"{count:.0f} {kind} (the cluster has {has.get(kind, 0):.0f})"
        for kind, count in needs.items()
        if count > has.get(kind, 0)
    )
