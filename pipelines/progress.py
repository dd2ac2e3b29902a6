"""A bar with rate and time left on a terminal, a plain line now and then elsewhere."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from time import monotonic

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

SECONDS_BETWEEN_LINES = 15


@dataclass
class PlainBar:
    """Says where the work is, at most every 15 seconds and at its end."""

    what: str
    total: int
    unit: str
    done: int = 0
    note: str = ""
    begun: float = field(default_factory=monotonic)
    said: float = field(default_factory=monotonic)

    def advance(self, count: int = 1, note: str = "") -> None:
        self.done += count
        self.note = note or self.note
        if self.done < self.total and monotonic() - self.said >= SECONDS_BETWEEN_LINES:
            self.say()

    def expect(self, total: int) -> None:
        """The total is another by now."""
        self.total = total

    def say(self) -> None:
        self.said = monotonic()
        spent = self.said - self.begun
        rate = self.done / max(spent, 1e-9)
        if self.done >= self.total:
            ending = f" in {spent:.0f} s"
        else:  # before anything is done nobody knows
            ending = f", {(self.total - self.done) / rate:.0f} s left" if self.done else ""
        note = f", {self.note}" if self.note else ""
        print(
            f"{self.what}: {self.done}/{self.total} {self.unit}{note}"
            f" ({rate:.1f} {self.unit}/s{ending})",
            flush=True,
        )


@dataclass
class TerminalBar:
    """The same on a terminal."""

    bar: Progress
    unit: str
    task: int = 0

    def advance(self, count: int = 1, note: str = "") -> None:
        task = self.bar.tasks[self.task]
        rate = (task.completed + count) / max(task.elapsed or 0, 1e-9)
        note = note or task.fields["note"]
        self.bar.update(task.id, advance=count, rate=f"{rate:.1f} {self.unit}/s", note=note)

    def expect(self, total: int) -> None:
        self.bar.update(self.bar.tasks[self.task].id, total=total)


@contextmanager
def progress(what: str, total: int, unit: str) -> Iterator[PlainBar | TerminalBar]:
    """A bar for ``total`` units of work; ``advance`` it."""
    if not sys.stderr.isatty():
        plain = PlainBar(what, total, unit)
        yield plain
        plain.say()
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TextColumn("{task.fields[note]}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True)) as bar:
        bar.add_task(what, total=total, rate="", note="")
        yield TerminalBar(bar, unit)
