"""Several rows at once: who begins when, what a failure costs, and that DVC takes it."""

import time
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
import yaml

from pipelines.project import Project
from pipelines.side_by_side import Row, _run_all, next_row
from tests.pipelines.tiny_project import (
    PLAIN,
    SEARCHED,
    dvc_command,
    run,
    stage_command,
    table,
)

pytestmark = pytest.mark.long

HAS = {"CPU": 4.0, "GPU": 2.0}


def row(name: str, cpus: float, gpus: float = 0, after: str = "") -> Row:
    return Row(name, {"CPU": cpus, "GPU": gpus}, frozenset(after.split()))


def test_a_row_begins_when_there_is_room_for_it():
    small, other, large = row("small", 1), row("other", 1, 2), row("large", 4)
    assert next_row([small], [], HAS) == small
    assert next_row([small], [row("a", 3, 2)], HAS) == small
    assert next_row([small], [row("a", 4)], HAS) is None
    assert next_row([other], [row("a", 1, 1)], HAS) is None  # a GPU is missing
    assert next_row([large], [row("a", 1)], HAS) is None
    # it waits for all of the cluster, and nobody takes a part of that meanwhile
    assert next_row([large, small], [row("a", 1)], HAS) is None
    assert next_row([large, small], [], HAS) == large
    # what is more than there is gets its turn, too: its stage says what is wrong
    assert next_row([row("huge", 99)], [], HAS) == row("huge", 99)


def test_a_row_begins_after_the_rows_that_it_stands_on():
    first, second, third = row("a", 1), row("b", 1, after="a"), row("c", 1)
    assert next_row([first, second, third], [], HAS) == first
    assert next_row([second, third], [first], HAS) == third
    assert next_row([second], [first], HAS) is None
    assert next_row([second], [third], HAS) == second  # it stands on a row that is done, or old


class Timed:
    """A row that takes a while."""

    running = 0
    most = 0

    def __init__(self, name: str) -> None:
        self.name, self.begun, self.stopped = name, time.monotonic(), False
        Timed.running += 1
        Timed.most = max(Timed.most, Timed.running)

    def ended(self) -> bool:
        return time.monotonic() - self.begun > 0.3

    def succeeded(self) -> bool:
        Timed.running -= 1
        return "bad" not in self.name

    def stop(self) -> None:
        self.stopped = True


@pytest.fixture
def begun(monkeypatch: pytest.MonkeyPatch) -> list[Timed]:
    monkeypatch.setattr(Timed, "running", 0)
    monkeypatch.setattr(Timed, "most", 0)
    return []


def beginner(begun: list[Timed]) -> Callable[[str], Any]:
    def begin(name: str) -> Timed:
        begun.append(Timed(name))
        return begun[-1]

    return begin


@pytest.mark.parametrize(("jobs", "most"), [(1, 1), (2, 2), (9, 3)])
def test_as_many_run_as_are_asked_for_and_have_room(begun: list[Timed], jobs: int, most: int):
    rows = [row("a", 1), row("b", 2), row("c", 1), row("d", 1)]
    assert _run_all(rows, jobs, HAS, beginner(begun)) == []
    assert [each.name for each in begun] == ["a", "b", "c", "d"]
    assert Timed.most == most


def test_a_failure_costs_only_what_stands_on_it(begun: list[Timed], capsys):
    rows = [row("bad", 1), row("on it", 1, after="bad"), row("else", 1)]
    assert _run_all(rows, 2, HAS, beginner(begun)) == ["bad", "on it"]
    assert [each.name for each in begun] == ["bad", "else"]
    assert "[on it] needs bad, which failed" in capsys.readouterr().out


def test_an_interruption_stops_all(begun: list[Timed]):
    def begin(name: str) -> Any:
        if begun:
            raise KeyboardInterrupt
        return beginner(begun)(name)

    with pytest.raises(KeyboardInterrupt):
        _run_all([row("a", 1), row("b", 1)], 2, HAS, begin)
    assert [each.stopped for each in begun] == [True]


@pytest.mark.cluster
@pytest.mark.slow
@pytest.mark.timeout(900)
def test_two_rows_at_once_leave_what_one_after_the_other_would(
    checkout: Callable[..., Project], finished: Project
):
    one = {f"rows__{PLAIN}__workers": 1, f"rows__{SEARCHED}__search": None}
    project = checkout(table(**one))
    rows = stage_command("rows", "run", PLAIN, SEARCHED, "--jobs", "2")
    outcome = run(project.root, *rows)
    assert outcome.status == 0, outcome
    lines = outcome.out.splitlines()
    about = [line.partition("]")[0] for line in lines if line.startswith("[")]
    changes = sum(before != after for before, after in pairwise(about))
    assert changes > 4, "the rows took turns in saying things, so they ran at the same time"
    stages = yaml.safe_load((project.root / "dvc.lock").read_text())["stages"]
    for name in (PLAIN, SEARCHED):
        assert {f"{verb}@{name}" for verb in ("tune", "train", "evaluate")} <= stages.keys()
    status = run(project.root, *dvc_command("status", f"evaluate@{PLAIN}", f"evaluate@{SEARCHED}"))
    assert "up to date" in status.out, status
    again = run(project.root, *rows)
    assert again.status == 0, again
    assert "Running stage" not in again.out
