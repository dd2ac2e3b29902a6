"""What a bar says, by a clock that the test turns."""

import io
import sys

import pytest

from pipelines import progress as module
from pipelines.progress import PlainBar, TerminalBar, progress


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(module, "monotonic", clock)
    monkeypatch.setattr(sys, "stderr", io.StringIO())  # no terminal, whoever runs the tests
    return clock


def plain(what: str, total: int, unit: str, clock: Clock) -> PlainBar:
    """A bar that began now: the default of a dataclass's field was bound to the true clock."""
    return PlainBar(what, total, unit, begun=clock.now, said=clock.now)


def test_a_plain_bar_speaks_every_fifteen_seconds(clock: Clock, capsys: pytest.CaptureFixture[str]):
    bar = plain("train a", 100, "steps", clock)
    said = list[str]()
    for _ in range(40):
        clock.now += 1
        bar.advance(1, "loss 0.5")
        said.append(capsys.readouterr().out)
    assert [second for second, text in enumerate(said, start=1) if text] == [15, 30]
    assert said[14] == "train a: 15/100 steps, loss 0.5 (1.0 steps/s, 85 s left)\n"
    assert said[29] == "train a: 30/100 steps, loss 0.5 (1.0 steps/s, 70 s left)\n"


def test_before_anything_is_done_no_time_is_foretold(
    clock: Clock, capsys: pytest.CaptureFixture[str]
):
    bar = plain("tune a", 6, "trials", clock)
    clock.now += 20
    bar.advance(0, "mIoU 0.2 (paused)")
    assert capsys.readouterr().out == "tune a: 0/6 trials, mIoU 0.2 (paused) (0.0 trials/s)\n"


def test_a_plain_bar_ends_with_one_line_and_its_last_note(
    clock: Clock, capsys: pytest.CaptureFixture[str]
):
    with progress("evaluate a val", 8, "images") as bar:
        assert isinstance(bar, PlainBar)
        bar.begun = clock.now
        clock.now += 4
        bar.advance(8, "first")
        bar.advance(0, "last")
    expected = "evaluate a val: 8/8 images, last (2.0 images/s in 4 s)\n"
    assert capsys.readouterr().out == expected


def test_work_that_fails_claims_no_end(clock: Clock, capsys: pytest.CaptureFixture[str]):
    def fail() -> None:
        with progress("prepare a", 8, "images") as bar:
            bar.advance(3)
            raise ValueError("a broken image")

    with pytest.raises(ValueError, match="a broken image"):
        fail()
    assert capsys.readouterr().out == ""


def test_a_terminal_shows_a_bar_with_count_rate_and_note(monkeypatch: pytest.MonkeyPatch):
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    for name, value in {"TERM": "xterm", "COLUMNS": "160"}.items():
        monkeypatch.setenv(name, value)
    for name in ("NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
        monkeypatch.delenv(name, raising=False)
    with progress("tune a", 6, "trials") as bar:
        assert isinstance(bar, TerminalBar)
        bar.advance(2, "mIoU 0.300")
        bar.advance(3)
        assert bar.bar.tasks[0].completed == 5
    shown = terminal.getvalue().rpartition("tune a")[2]
    for part in ("5/6", "trials/s", "mIoU 0.300"):
        assert part in shown
