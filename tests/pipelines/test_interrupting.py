"""Ctrl-C: one message, status 130, and a run that says so."""

import os
import signal
import sqlite3
from collections.abc import Callable
from contextlib import closing
from typing import Any

import pytest

from pipelines.project import Project
from tests.pipelines.tiny_project import (
    PLAIN,
    SEARCHED,
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


def interrupted(project: Project, verb: str, key: str, moment: Callable[[], Any]) -> None:
    with started(project.root, *stage_command(verb, key)) as stage:
        wait_until(lambda: moment() or stage.poll() is not None, "the moment")
        os.kill(stage.pid, signal.SIGINT)
        out, err = stage.communicate(timeout=120)
    assert stage.returncode == 130, out + err
    assert err.endswith("interrupted\n")
    assert "Traceback" not in out + err


@pytest.fixture
def long(finished: Project, copy_of: Callable[..., Project]) -> Project:
    copy = copy_of(finished, "data/shards", f"runs/{PLAIN}/search.json")
    changes: dict[str, Any] = {"datasets__tiny__recipe__steps": LONG}
    changes |= {f"rows__{SEARCHED}__search__steps": LONG, f"rows__{PLAIN}__workers": 1}
    return write_table(copy.root, table(**changes))


@pytest.mark.parametrize("moment", ["starting", "training"])
def test_a_training_that_is_interrupted_says_so(long: Project, moment: str):
    def reached() -> bool:
        if moment == "training":
            return any(long.work.glob(f"{PLAIN}-*/metrics.jsonl"))
        return statuses(long) == {PLAIN: "RUNNING"}

    interrupted(long, "train", PLAIN, reached)
    assert statuses(long) == {PLAIN: "KILLED"}
    assert [path.name for path in long.run(PLAIN).iterdir()] == ["search.json"]


def test_a_search_that_is_interrupted_says_so(long: Project):
    journals = f"tune-{SEARCHED}-*/trials/*/metrics.jsonl"
    interrupted(long, "tune", SEARCHED, lambda: any(long.work.glob(journals)))
    assert statuses(long) == {f"tune {SEARCHED}": "KILLED", f"{SEARCHED} trial 000": "KILLED"}
    assert not (long.run(SEARCHED) / "search.json").exists()
    assert any(long.work.glob(f"tune-{SEARCHED}-*/trials.jsonl"))
