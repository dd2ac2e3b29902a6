"""The ledger of a search, before a store that is away, slow or back."""

import json
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import pytest

from pipelines import ledger as ledgers
from pipelines.ledger import Ledger
from pipelines.progress import PlainBar
from segcore.errors import InputError
from segcore.journal import read_lines


class Clock:
    """Time that passes when the store lets it."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now


class Kept:
    """A store in memory; while it is away each call takes ``patience`` seconds, and fails."""

    def __init__(self, clock: Clock) -> None:
        self.clock, self.away, self.patience, self.calls = clock, False, 15.0, 0
        self.points = dict[str, list[tuple[int, float]]]()
        self.statuses = dict[str, str]()

    def start(self, name: str) -> str:
        if not self._answers():
            raise InputError("away")
        self.statuses[name] = "RUNNING"
        self.points.setdefault(name, [])
        return name

    def log_metrics(self, run_id: str, values: dict[str, float], step: int) -> bool:
        if self._answers():
            self.points[run_id].append((step, values["miou"]))
            return True
        return False

    def finish(self, run_id: str, status: str) -> bool:
        if self._answers():
            self.statuses[run_id] = status
            return True
        return False

    def asked(self) -> AbstractContextManager[None]:
        return nullcontext()

    @property
    def client(self) -> "Kept":
        return self

    def get_metric_history(self, run_id: str, name: str) -> list[tuple[int, float]]:
        assert name == "miou"
        return self.points[run_id]

    def _answers(self) -> bool:
        self.calls += 1
        self.clock.now += self.patience if self.away else 0.0
        return not self.away


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(ledgers, "time", made)
    return made


@pytest.fixture
def store(clock: Clock) -> Kept:
    return Kept(clock)


@pytest.fixture
def opened() -> Iterator[Callable[[Path, Kept], Ledger]]:
    made = list[Ledger]()

    def opened(path: Path, store: Any) -> Ledger:
        bar = PlainBar("tune", 9, "trials")
        made.append(Ledger(path, store, lambda trial: {"name": trial["id"]}, bar))
        return made[-1]

    yield opened
    for ledger in made:
        ledger.file.close()


def events(number: int, *scores: float, ended: bool = True) -> list[dict[str, Any]]:
    told = [{"event": "started", "trial": number, "values": {"seed": number}}]
    for place, miou in enumerate(scores, start=1):
        told.append({"event": "reported", "trial": number, "step": 10 * place, "miou": miou})
    return told + [{"event": "ended", "trial": number, "status": "finished"}] * ended


def test_what_is_heard_is_in_the_store_at_once(
    tmp_path: Path, store: Kept, opened: Callable[..., Ledger]
):
    ledger = opened(tmp_path / "trials.jsonl", store)
    for event in [*events(0, 0.25, 0.5), *events(1, 0.125, ended=False)]:
        ledger.heard(event)
    assert store.statuses == {"000": "FINISHED", "001": "RUNNING"}
    assert store.points == {"000": [(10, 0.25), (20, 0.5)], "001": [(10, 0.125)]}
    assert ledger.close("KILLED")
    assert store.statuses == {"000": "FINISHED", "001": "KILLED"}


def test_a_search_waits_a_tenth_of_its_time_for_a_store_that_hangs(
    tmp_path: Path, store: Kept, opened: Callable[..., Ledger], clock: Clock
):
    """A call takes 15 seconds; the next one comes after ten times as long."""
    ledger = opened(tmp_path / "trials.jsonl", store)
    store.away, store.calls = True, 0
    asked = list[float]()
    for number in range(100):
        before = store.calls
        ledger.heard(events(number, ended=False)[0])
        asked += [clock.now] * (store.calls - before)
        clock.now += 10.0
    assert asked == [15.0, 180.0, 345.0, 510.0, 675.0, 840.0, 1005.0]
    assert store.calls == 7
    assert clock.now == 100 * 10 + 7 * 15


def test_a_store_that_refuses_at_once_is_asked_every_twenty_seconds(
    tmp_path: Path, store: Kept, opened: Callable[..., Ledger], clock: Clock
):
    ledger = opened(tmp_path / "trials.jsonl", store)
    store.away, store.patience, store.calls = True, 0.0, 0
    for number in range(60):
        ledger.heard(events(number, ended=False)[0])
        clock.now += 1.0
    assert store.calls == 3


def test_a_store_that_is_back_gets_all_of_it_once(
    tmp_path: Path, store: Kept, opened: Callable[..., Ledger], clock: Clock
):
    ledger = opened(tmp_path / "trials.jsonl", store)
    store.away = True
    for event in [*events(0, 0.25, 0.5), *events(1, 0.125)]:
        ledger.heard(event)
    assert store.points == {}
    store.away, clock.now = False, 1000.0
    ledger.heard(events(2, ended=False)[0])
    assert store.points == {"000": [(10, 0.25), (20, 0.5)], "001": [(10, 0.125)], "002": []}
    assert store.statuses == {"000": "FINISHED", "001": "FINISHED", "002": "RUNNING"}


def test_a_ledger_says_at_its_end_that_the_store_has_missed_some(
    tmp_path: Path, store: Kept, opened: Callable[..., Ledger]
):
    path = tmp_path / "trials.jsonl"
    ledger = opened(path, store)
    store.away = True
    for event in events(0, 0.25):
        ledger.heard(event)
    assert not ledger.close("FINISHED")
    store.away = False
    assert ledger.close("FINISHED")
    assert store.points == {"000": [(10, 0.25)]}
    assert store.statuses == {"000": "FINISHED"}
    assert read_lines(path) == events(0, 0.25)


def test_a_search_that_goes_on_sends_no_point_twice(
    tmp_path: Path, store: Kept, opened: Callable[..., Ledger]
):
    path = tmp_path / "trials.jsonl"
    begun, first, second, ended = events(0, 0.25, 0.5)
    ledger = opened(path, store)
    ledger.heard(begun)
    ledger.heard(first)
    store.away = True
    ledger.heard(second)
    store.away = False
    again = opened(path, store)
    again.heard(ended)
    assert again.past == [begun, first, second]
    assert store.points == {"000": [(10, 0.25), (20, 0.5)]}
    assert store.statuses == {"000": "FINISHED"}


def test_a_line_that_a_kill_cut_short_is_gone(
    tmp_path: Path, store: Kept, opened: Callable[..., Ledger]
):
    path = tmp_path / "trials.jsonl"
    told = events(0, 0.25, ended=False)
    path.write_text("".join(json.dumps(event) + "\n" for event in told) + '{"event": "rep')
    assert opened(path, store).past == told
    assert path.read_text().count("\n") == 2
