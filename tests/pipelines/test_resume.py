"""Stages that are killed half-way: what they leave, and how the next run goes on."""

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
from mlflow import MlflowClient

from pipelines.project import Project
from segcore.files import read_json, sha256_of
from segcore.journal import read_lines
from tests.pipelines.tiny_project import (
    PLAIN,
    STEPS,
    dvc_command,
    main_of,
    run,
    stage_command,
    started,
    table,
    wait_until,
)

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]


@pytest.fixture
def ready(finished: Project, copy_of: Callable[..., Project]) -> Project:
    """The plain row ready to train, with what an uninterrupted training gave in ``finished``."""
    return copy_of(finished, "data/shards", f"runs/{PLAIN}/search.json")


def tracked(project: Project) -> list[Any]:
    uri = f"sqlite:///{project.root / 'mlflow.db'}"
    client = MlflowClient(uri, uri)
    experiment = client.get_experiment_by_name("tiny")
    assert experiment
    return list(client.search_runs([experiment.experiment_id]))


def journal_of(project: Project) -> Path | None:
    return next(project.work.glob(f"{PLAIN}-*/metrics.jsonl"), None)


def has_checkpoint(project: Project) -> bool:
    """The second one has begun, so the first one is whole."""
    return any(project.work.glob(f"{PLAIN}-*/step-0000004"))


def outputs(project: Project) -> list[str]:
    return sorted(path.name for path in project.run(PLAIN).iterdir())


def test_a_killed_training_goes_on_and_ends_the_same(ready: Project, finished: Project):
    with started(ready.root, *stage_command("train", PLAIN)) as process:
        wait_until(lambda: has_checkpoint(ready) or process.poll() is not None, "a checkpoint")
        os.kill(process.pid, signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
    journal = journal_of(ready)
    assert journal
    before = read_lines(journal)
    assert 2 < before[-1]["step"] < STEPS, "it was killed neither too early nor too late"
    assert outputs(ready) == ["search.json"]
    assert [each.info.status for each in tracked(ready)] == ["RUNNING"]  # it could not say so

    outcome = run(ready.root, *stage_command("train", PLAIN))
    assert outcome.status == 0, outcome
    after = read_lines(ready.run(PLAIN) / "metrics.jsonl")
    steps = [line for line in after if line["event"] == "step"]
    assert [line["step"] for line in steps] == list(range(1, STEPS + 1))
    # It went on: the first lines, times included, are those of the first process.
    assert after[:2] == before[:2]
    expected = read_lines(finished.run(PLAIN) / "metrics.jsonl")
    figures = [(line["event"], line["step"], line.get("loss"), line.get("miou")) for line in after]
    assert figures == [(e["event"], e["step"], e.get("loss"), e.get("miou")) for e in expected]
    weights = "weights.safetensors"
    assert sha256_of(ready.run(PLAIN) / weights) == sha256_of(finished.run(PLAIN) / weights)
    (tracked_run,) = tracked(ready)
    assert tracked_run.info.status == "FINISHED"
    uri = f"sqlite:///{ready.root / 'mlflow.db'}"
    points = MlflowClient(uri, uri).get_metric_history(tracked_run.info.run_id, "loss")
    assert sorted(point.step for point in points) == list(range(1, STEPS + 1))


def test_a_training_told_to_stop_stops(ready: Project):
    with started(ready.root, *stage_command("train", PLAIN)) as process:
        wait_until(lambda: journal_of(ready) or process.poll() is not None, "the first step")
        process.terminate()
        out, err = process.communicate(timeout=120)
    assert process.returncode == 143, (out, err)
    assert "Traceback" not in out + err
    assert [each.info.status for each in tracked(ready)] == ["KILLED"]
    assert outputs(ready) == ["search.json"]


def test_a_training_that_died_before_its_outputs_needs_no_step_more(
    ready: Project, finished: Project, ray_cluster: str, monkeypatch: pytest.MonkeyPatch
):
    """And training from scratch with the same seed gave the same weights as the first time."""
    train = main_of("train")
    with monkeypatch.context() as patch:
        patch.setattr("pipelines.train.save_model", no_space_left)
        with pytest.raises(OSError, match="no space left"):
            train(PLAIN, ready)
    assert [each.info.status for each in tracked(ready)] == ["FAILED"]
    journal = journal_of(ready)
    assert journal
    before = journal.read_text()
    train(PLAIN, ready)
    assert (ready.run(PLAIN) / "metrics.jsonl").read_text() == before  # times included
    for name in ("weights.safetensors", "config.json", "classes.json"):
        assert sha256_of(ready.run(PLAIN) / name) == sha256_of(finished.run(PLAIN) / name)
    assert [each.info.status for each in tracked(ready)] == ["FINISHED"]
    assert list(ready.work.iterdir()) == []  # nothing of a finished training is on its way


def no_space_left(*_: object) -> None:
    raise OSError(28, "no space left on the device")


IMAGES = 900
"""Enough for a second or two of work."""


def stages_of(process: psutil.Process) -> list[psutil.Process]:
    try:
        below = process.children(recursive=True)
        return [each for each in below if "pipelines.download" in " ".join(each.cmdline())]
    except psutil.Error:
        return []


@pytest.mark.parametrize("moment", ["starting", "working"])
def test_a_stage_dies_with_dvc_and_the_next_repro_works(
    checkout: Callable[..., Project], moment: str
):
    options = {"train": IMAGES, "val": 1, "height": 48, "width": 64}
    project = checkout(table(datasets__tiny__options=options))
    lock = project.work / "locks/download-tiny.lock"
    with started(project.root, *dvc_command("repro", "download@tiny")) as dvc:
        parent = psutil.Process(dvc.pid)
        wait_until(lambda: stages_of(parent) or dvc.poll() is not None, "the stage's process")
        if moment == "working":
            wait_until(lambda: lock.exists() and lock.read_text(), "the stage's work")
        stages = stages_of(parent)
        assert stages
        os.kill(dvc.pid, signal.SIGKILL)
        dvc.wait()
        gone, alive = psutil.wait_procs(stages, timeout=60)
        assert (len(gone), alive) == (len(stages), [])
    assert not (project.raw("tiny") / "inventory.json").exists()
    outcome = run(project.root, *dvc_command("repro", "download@tiny"))
    assert outcome.status == 0, outcome
    files = read_json(project.raw("tiny") / "inventory.json")["files"]
    assert len(files) == 2 * (IMAGES + 1)
