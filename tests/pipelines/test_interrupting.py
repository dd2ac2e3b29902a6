"""Ctrl-C: one message, status 130, a run that says so, and no process that stays."""

import os
import signal
import sqlite3
from collections.abc import Callable
from contextlib import closing
from typing import Any

import psutil
import pytest

from pipelines.project import Project
from segcore.files import read_json
from tests.pipelines.tiny_project import (
    PLAIN,
    SEARCHED,
    run,
    stage_command,
    started,
    table,
    wait_until,
    write_table,
)

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]

LONG = 5000
"""Steps, more than there is time for."""


def statuses(project: Project) -> dict[str, str]:
    """Of every run, by its name."""
    # not by MLflow's client, which would make tables at the same time as the stage
    try:
        database = sqlite3.connect(f"file:{project.root / 'mlflow.db'}?mode=ro", uri=True)
        with closing(database):
            return dict(database.execute("select name, status from runs"))
    except sqlite3.OperationalError:  # it has none yet
        return {}


def interrupted(
    project: Project, verb: str, key: str, moment: Callable[[], Any], number: int = signal.SIGINT
) -> None:
    with started(project.root, *stage_command(verb, key)) as stage:
        wait_until(lambda: moment() or stage.poll() is not None, "the moment")
        engines = psutil.Process(stage.pid).children(recursive=True)
        os.kill(stage.pid, number)
        out, err = stage.communicate(timeout=120)
    assert stage.returncode == 128 + number, out + err
    assert err.endswith("interrupted\n") or number == signal.SIGTERM
    assert "Traceback" not in out + err
    wait_until(lambda: not any(each.is_running() for each in engines), "the end of Ray", 30)


@pytest.fixture
def short(finished: Project, copy_of: Callable[..., Project]) -> Project:
    copy = copy_of(finished, "data/shards", f"runs/{PLAIN}/search.json")
    return write_table(copy.root, table(**{f"rows__{PLAIN}__workers": 1}))


@pytest.fixture
def long(short: Project) -> Project:
    changes: dict[str, Any] = {"datasets__tiny__recipe__steps": LONG}
    changes |= {f"rows__{SEARCHED}__search__steps": LONG, f"rows__{PLAIN}__workers": 1}
    return write_table(short.root, table(**changes))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_training_whose_cluster_still_starts_leaves_no_run(long: Project, number: int):
    store_is_opened = (long.root / "mlflow.db.lock").exists  # in another thread, meanwhile
    interrupted(long, "train", PLAIN, store_is_opened, number)
    assert statuses(long) == {}


@pytest.mark.parametrize("moment", ["started", "training"])
def test_a_training_that_is_interrupted_says_so(long: Project, moment: str):
    def reached() -> bool:
        if moment == "training":
            return any(long.work.glob(f"{PLAIN}-*/metrics.jsonl"))
        return statuses(long) == {PLAIN: "RUNNING"}

    interrupted(long, "train", PLAIN, reached)
    assert statuses(long) == {PLAIN: "KILLED"}
    assert [path.name for path in long.run(PLAIN).iterdir()] == ["search.json"]


def test_a_training_that_is_interrupted_while_it_is_stored_is_stored_by_the_next(short: Project):
    """Ray ends in another thread, meanwhile."""
    interrupted(short, "train", PLAIN, (short.run(PLAIN) / "config.json").exists)
    assert statuses(short) == {PLAIN: "KILLED"}
    again = run(short.root, *stage_command("train", PLAIN))
    assert again.status == 0, again
    assert statuses(short) == {PLAIN: "FINISHED"}
    assert read_json(short.run(PLAIN) / "registered.json")["run_id"]


def test_a_search_that_is_interrupted_says_so(long: Project):
    journals = f"tune-{SEARCHED}-*/trials/*/metrics.jsonl"
    interrupted(long, "tune", SEARCHED, lambda: any(long.work.glob(journals)))
    assert statuses(long) == {f"tune {SEARCHED}": "KILLED", f"{SEARCHED} trial 000": "KILLED"}
    assert not (long.run(SEARCHED) / "search.json").exists()
    assert any(long.work.glob(f"tune-{SEARCHED}-*/trials.jsonl"))
