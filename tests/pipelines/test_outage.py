"""A tracking server that dies while a stage works: back in time, late, or not at all."""

import json
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from mlflow import MlflowClient

from pipelines import train as train_stage
from pipelines.cluster import searching
from pipelines.project import Project
from pipelines.tracking import connection, open_store
from segcore.errors import InputError
from segcore.files import read_json
from segcore.journal import read_lines
from tests.pipelines.mlflow_server import Server
from tests.pipelines.tiny_project import (
    PLAIN,
    SEARCHED,
    STEPS,
    main_of,
    stage_command,
    started,
    table,
    wait_until,
    write_table,
)

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]

LONG = 2000
"""Steps: enough for a server to start again meanwhile."""


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    (tmp_path / "server").mkdir()
    open_store(tmp_path / "store")
    running = Server(tmp_path / "server", tmp_path / "store" / "mlflow.db")
    yield running
    if running.process.poll() is None:
        running.kill()


@pytest.fixture
def tracked_project(
    finished: Project,
    ray_cluster: str,
    copy_of: Callable[..., Project],
    server: Server,
    monkeypatch: pytest.MonkeyPatch,
) -> Project:
    """With one row to train and one to search, and the server as its store."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.uri)
    return copy_of(finished, "data/shards", f"runs/{PLAIN}/search.json")


def runs_of(server: Server) -> dict[str, Any]:
    """By their names."""
    client = MlflowClient(server.uri, server.uri)
    (place,) = [each for each in client.search_experiments() if each.name == "tiny"]
    runs = list(client.search_runs([place.experiment_id]))
    named = {run.info.run_name or "": run for run in runs}
    assert len(named) == len(runs)
    return named


def points(server: Server, run: Any, name: str) -> list[tuple[int, float]]:
    history = MlflowClient(server.uri, server.uri).get_metric_history(run.info.run_id, name)
    return sorted((point.step, point.value) for point in history)


def losses(journal: Path) -> list[tuple[int, float]]:
    return [(line["step"], line["loss"]) for line in read_lines(journal) if "loss" in line]


def is_all_there(project: Project, server: Server) -> None:
    """Of the training."""
    run = runs_of(server)[PLAIN]
    assert run.info.status == "FINISHED"
    held = points(server, run, "loss")
    assert held == losses(project.run(PLAIN) / "metrics.jsonl")
    assert [step for step, _ in held] == list(range(1, STEPS + 1))
    assert read_json(project.run(PLAIN) / "registered.json")["version"] == 1
    assert not list(project.work.glob(f"{PLAIN}-*"))


def is_all_found(project: Project, server: Server) -> None:
    """Of the search."""
    runs = runs_of(server)
    trials = read_json(project.run(SEARCHED) / "search.json")["trials"]
    names = [f"{SEARCHED} trial {trial['id']}" for trial in trials]
    assert runs.keys() == {f"tune {SEARCHED}", *names}
    assert {run.info.status for run in runs.values()} == {"FINISHED"}
    for name, trial in zip(names, trials, strict=True):
        assert points(server, runs[name], "miou") == [tuple(point) for point in trial["history"]]
    assert len(names) == 3
    assert not list(project.work.glob("tune-*"))


@pytest.fixture
def lost_when_trained(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """The server dies when the workers have ended."""
    train = train_stage.train_row

    def train_then_lose(*arguments: Any) -> Path:
        checkpoint = train(*arguments)
        server.kill()
        return checkpoint

    monkeypatch.setattr(train_stage, "train_row", train_then_lose)


@pytest.fixture
def lost_while_searched(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """The server dies before it hears that the first trial has ended."""
    search = searching.search_row

    def search_and_lose(*arguments: Any) -> dict[str, float]:
        *others, heard = arguments

        def lose_then_hear(event: dict[str, Any]) -> None:
            if event["event"] == "ended" and event["trial"] == 0:
                server.kill()
            heard(event)

        return search(*others, lose_then_hear)

    monkeypatch.setattr(searching, "search_row", search_and_lose)


@pytest.fixture
def back_when_asked_again(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    def sleep(_: float) -> None:
        server.start()

    clock = SimpleNamespace(sleep=sleep, monotonic=time.monotonic)
    monkeypatch.setattr(connection, "time", clock)


@pytest.mark.usefixtures("lost_when_trained", "back_when_asked_again")
def test_a_training_waits_at_its_end(
    tracked_project: Project, server: Server, capsys: pytest.CaptureFixture[str]
):
    main_of("train")(PLAIN, tracked_project)
    assert "waiting for it, for 10 minutes at most" in capsys.readouterr().err
    is_all_there(tracked_project, server)


@pytest.mark.usefixtures("lost_while_searched", "back_when_asked_again")
def test_a_search_waits_at_its_end(
    tracked_project: Project, server: Server, capsys: pytest.CaptureFixture[str]
):
    main_of("tune")(SEARCHED, tracked_project)
    assert "waiting for it, for 10 minutes at most" in capsys.readouterr().err
    is_all_found(tracked_project, server)


@pytest.mark.usefixtures("lost_when_trained")
def test_a_training_whose_server_stays_away_keeps_its_work(
    tracked_project: Project, server: Server, monkeypatch: pytest.MonkeyPatch
):
    project = tracked_project
    with monkeypatch.context() as patch:
        patch.setattr(connection, "MINUTES_AWAY", 0)
        with pytest.raises(InputError, match=r"away.*start the stage again: its work is kept"):
            main_of("train")(PLAIN, project)
    assert [path.name for path in project.run(PLAIN).iterdir()] == ["search.json"]
    (journal,) = project.work.glob(f"{PLAIN}-*/metrics.jsonl")
    before = journal.read_text()
    monkeypatch.undo()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.uri)
    server.start()
    main_of("train")(PLAIN, project)
    is_all_there(project, server)
    assert (project.run(PLAIN) / "metrics.jsonl").read_text() == before  # times included


@pytest.mark.usefixtures("lost_while_searched")
def test_a_search_whose_server_stays_away_keeps_its_ledger(
    tracked_project: Project, server: Server, monkeypatch: pytest.MonkeyPatch
):
    project = tracked_project
    with monkeypatch.context() as patch:
        patch.setattr(connection, "MINUTES_AWAY", 0)
        with pytest.raises(InputError, match=r"away.*start the stage again: its work is kept"):
            main_of("tune")(SEARCHED, project)
    assert not (project.run(SEARCHED) / "search.json").exists()
    (ledger,) = project.work.glob("tune-*/trials.jsonl")
    ended = {event["trial"] for event in read_lines(ledger) if event["event"] == "ended"}
    assert ended == {0, 1, 2}
    monkeypatch.undo()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.uri)
    server.start()
    main_of("tune")(SEARCHED, project)
    is_all_found(project, server)


def journal(project: Project) -> list[dict]:
    files = [*project.work.glob("*/metrics.jsonl"), *project.root.glob("runs/*/metrics.jsonl")]
    lines = files[0].read_text().rpartition("\n")[0].splitlines() if files else []
    return [json.loads(line) for line in lines]


def await_steps(project: Project, stage: subprocess.Popen[str], count: int) -> None:
    wait_until(lambda: len(journal(project)) > count or stage.poll() is not None, "steps")
    assert stage.poll() is None, stage.communicate()


@pytest.mark.slow
def test_a_training_outlives_its_server_which_gets_all_of_it_later(
    prepared: Project, server: Server, tmp_path: Path
):
    shutil.copytree(prepared.root, tmp_path / "project")
    recipe = {"steps": LONG, "evaluate_every": 500, "save_every": 500}
    changes = {f"datasets__tiny__recipe__{key}": value for key, value in recipe.items()}
    values = table(**changes, **{f"rows__{PLAIN}__workers": 1})
    project = write_table(tmp_path / "project", values)
    main_of("tune")(PLAIN, project)
    with started(
        project.root, *stage_command("train", PLAIN), MLFLOW_TRACKING_URI=server.uri
    ) as stage:
        await_steps(project, stage, 50)
        server.kill()
        await_steps(project, stage, len(journal(project)) + 100)
        server.start()
        out, err = stage.communicate(timeout=400)
    assert stage.returncode == 0, out + err
    assert "missed _deliver" in err
    run = runs_of(server)[PLAIN]
    assert run.info.status == "FINISHED"
    held = points(server, run, "loss")
    assert held == losses(project.run(PLAIN) / "metrics.jsonl")
    assert [step for step, _ in held] == list(range(1, LONG + 1))
