"""Whose turn it is, where rows run side by side: as many as have room, each in its turn."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from pipelines.repro import Repro, stop_all

SECONDS_BETWEEN_LOOKS = 0.2


@dataclass(frozen=True)
class Row:
    """``needs`` is the most that it takes of the cluster at a time, by kind; ``after`` names the
    rows that it stands on."""

    name: str
    needs: Mapping[str, float]
    after: frozenset[str] = frozenset()


def next_row(
    waiting: Sequence[Row], running: Sequence[Row], has: Mapping[str, float]
) -> Row | None:
    """The first one that waits for no other row, once there is room for it.

    Smaller rows behind it do not overtake it: they could take its room for ever."""
    unfinished = {row.name for row in (*waiting, *running)}
    row = next((row for row in waiting if not row.after & unfinished), None)
    if row is None or not running:
        return row
    taken = {kind: sum(other.needs.get(kind, 0) for other in running) for kind in has}
    fits = all(count <= has.get(kind, 0) - taken.get(kind, 0) for kind, count in row.needs.items())
    return row if fits else None


def in_turn(names: Sequence[str], begin: Callable[[str], Repro]) -> list[str]:
    """Runs one at a time; returns the names of those that failed."""
    return side_by_side([Row(name, {}) for name in names], 1, {}, begin)


def side_by_side(
    waiting: list[Row], jobs: int, has: Mapping[str, float], begin: Callable[[str], Repro]
) -> list[str]:
    """Runs rows, at most ``jobs`` at a time; returns the names of those that failed."""
    running, failed = dict[str, tuple[Row, Repro]](), list[str]()
    try:
        while waiting or running:
            rows = [row for row, _ in running.values()]
            row = next_row(waiting, rows, has) if len(running) < jobs else None
            if row:
                waiting.remove(row)
                if lost := row.after & set(failed):
                    print(f"[{row.name}] needs {', '.join(lost)}, which failed")
                    failed.append(row.name)
                else:
                    running[row.name] = row, begin(row.name)
                continue
            time.sleep(SECONDS_BETWEEN_LOOKS)
            for name in [name for name, (_, repro) in running.items() if repro.ended()]:
                _, repro = running.pop(name)
                failed += [] if repro.succeeded() else [name]
    finally:
        stop_all([repro for _, repro in running.values()])
    return failed
