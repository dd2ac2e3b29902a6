"""Several rows at once: who begins when, what a failure costs, and that DVC takes it."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml
from mlflow import MlflowClient

from pipelines.project import Project
from pipelines.repro import Repro, is_over, stop_all
from pipelines.turns import Row, in_turn, next_row, side_by_side
from tests.pipelines.tiny_project import (
    PLAIN,
    SEARCHED,
    dvc_command,
    run,
    stage_command,
    started,
    table,
    wait_until,
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

    def stop(self) -> list[psutil.Process]:
        self.stopped = True
        return []


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
    assert side_by_side(rows, jobs, HAS, beginner(begun)) == []
    assert [each.name for each in begun] == ["a", "b", "c", "d"]
    assert Timed.most == most


def test_one_at_a_time_in_the_order_given(begun: list[Timed]):
    assert in_turn(["a", "bad", "c"], beginner(begun)) == ["bad"]
    assert [each.name for each in begun] == ["a", "bad", "c"]
    assert Timed.most == 1


def test_a_failure_costs_only_what_stands_on_it(begun: list[Timed], capsys):
    rows = [row("bad", 1), row("on it", 1, after="bad"), row("else", 1)]
    assert side_by_side(rows, 2, HAS, beginner(begun)) == ["bad", "on it"]
    assert [each.name for each in begun] == ["bad", "else"]
    assert "[on it] needs bad, which failed" in capsys.readouterr().out


def test_an_interruption_stops_all(begun: list[Timed]):
    def begin(name: str) -> Any:
        if begun:
            raise KeyboardInterrupt
        return beginner(begun)(name)

    with pytest.raises(KeyboardInterrupt):
        side_by_side([row("a", 1), row("b", 1)], 2, HAS, begin)
    assert [each.stopped for each in begun] == [True]


DVC = """
import subprocess, sys
subprocess.run(["sh", "-c", sys.executable + " -c '" + sys.argv[1] + "'; true"])
"""
"""In DVC's place: it starts a shell, which starts a stage, and dies of SIGTERM at once."""

STAGE = """
import os, time
dvc, end = os.getpgrp(), time.monotonic() + 60
open("begun", "w").close()
while time.monotonic() < end:
    try:
        os.kill(dvc, 0)
        time.sleep(0.05)
    except ProcessLookupError:
        break
time.sleep(1.0)
open("ended", "w").close()
"""
"""It ends a second after its DVC, as one that has to say so to a tracking server."""


def test_stages_have_ended_when_their_rows_are_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """So the cluster that they use may go. All end at once, not one after the other."""
    start, repros = subprocess.Popen, list[Repro]()

    def instead(command: list[str], **options: Any) -> Any:
        return start([sys.executable, "-c", DVC, STAGE], **options)

    monkeypatch.setattr("pipelines.repro.subprocess.Popen", instead)
    folders = [tmp_path / name for name in "abc"]
    for folder in folders:
        folder.mkdir()
        repros.append(Repro(folder.name, folder, [], os.environ))
    wait_until(lambda: all((folder / "begun").exists() for folder in folders), "three stages")
    family = [psutil.Process(repro.process.pid).children(recursive=True) for repro in repros]
    assert [len(each) for each in family] == [2, 2, 2]
    stop_all(repros)
    assert [(folder / "ended").exists() for folder in folders] == [True] * 3
    assert all(is_over(process) for each in family for process in each)
    assert all(repro.ended() and not repro.succeeded() for repro in repros)


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
        verbs = ("tune", "train", "evaluate", "benchmark")
        assert {f"{verb}@{name}" for verb in verbs} <= stages.keys()
    begun = [line for line in lines if "Running stage" in line]
    assert [line.split("'")[1] for line in begun[-2:]] == [
        f"benchmark@{PLAIN}",
        f"benchmark@{SEARCHED}",
    ]
    status = run(project.root, *dvc_command("status", f"evaluate@{PLAIN}", f"evaluate@{SEARCHED}"))
    assert "up to date" in status.out, status
    again = run(project.root, *rows)
    assert again.status == 0, again
    assert "Running stage" not in again.out


@pytest.mark.cluster
@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_rows_that_are_stopped_end_as_a_stage_that_is_stopped_does(
    checkout: Callable[..., Project], number: int, status: int
):
    """The cluster is there until they have said so."""
    long = {f"rows__{PLAIN}__workers": 1, "datasets__tiny__recipe__steps": 5000}
    project = checkout(table(**long, **{f"rows__{SEARCHED}__search": None}))
    rows = stage_command("rows", "run", PLAIN, SEARCHED, "--jobs", "2")
    with started(project.root, *rows) as process:
        wait_until(
            lambda: (
                len(list(project.work.glob("*/metrics.jsonl"))) == 2 or process.poll() is not None
            ),
            "two trainings",
            240,
        )
        process.send_signal(number)
        out, err = process.communicate(timeout=240)
    assert process.returncode == status, out + err
    assert "Traceback" not in out + err
    uri = f"sqlite:///{project.root / 'mlflow.db'}"
    client = MlflowClient(uri, uri)
    place = client.get_experiment_by_name("tiny")
    assert place
    runs = client.search_runs([place.experiment_id])
    assert [each.info.status for each in runs] == ["KILLED", "KILLED"]
