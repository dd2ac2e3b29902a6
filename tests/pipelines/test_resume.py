"""Stages that are killed half-way: what they leave, and how the next run goes on."""

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from threading import Thread
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
    """One of those from the second on, of which the newest two stay."""
    found = project.work.glob(f"{PLAIN}-*/step-*")
    return any(path.name >= "step-0000004" for path in found)


def outputs(project: Project) -> list[str]:
    return sorted(path.name for path in project.run(PLAIN).iterdir())


def reached(project: Project, events: int) -> bool:
    """The journal has so many lines; a save leaves none."""
    journal = journal_of(project)
    return journal is not None and len(read_lines(journal)) >= events


def is_the_same(trained: Project, finished: Project) -> None:
    """Every step once, its figures and the weights those of a training that nothing befell, and
    one tracked run that has all of it."""
    lines, expected = (
        read_lines(each.run(PLAIN) / "metrics.jsonl") for each in (trained, finished)
    )
    steps = [line["step"] for line in lines if line["event"] == "step"]
    assert steps == list(range(1, STEPS + 1))
    assert [figures(line) for line in lines] == [figures(line) for line in expected]
    for name in ("weights.safetensors", "config.json", "classes.json"):
        assert sha256_of(trained.run(PLAIN) / name) == sha256_of(finished.run(PLAIN) / name)
    (tracked_run,) = tracked(trained)
    assert tracked_run.info.status == "FINISHED"
    uri = f"sqlite:///{trained.root / 'mlflow.db'}"
    points = MlflowClient(uri, uri).get_metric_history(tracked_run.info.run_id, "loss")
    assert sorted(point.step for point in points) == list(range(1, STEPS + 1))


def figures(line: dict[str, Any]) -> dict[str, Any]:
    """All of a line but what the clock says."""
    return {name: value for name, value in line.items() if not name.endswith("seconds")}


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
    is_the_same(ready, finished)
    # It went on: the first lines, times included, are those of the first process.
    assert read_lines(ready.run(PLAIN) / "metrics.jsonl")[:2] == before[:2]


def saving(project: Project, step: int) -> bool:
    """A checkpoint is being written aside, or it is there."""
    name = f"step-{step:07d}"
    return any([*project.work.glob(f"{PLAIN}-*/.{name}.*"), *project.work.glob(f"*/{name}")])


MOMENTS = {
    "before the first step": lambda project: any(project.work.glob(f"{PLAIN}-*")),
    **{f"after {events} events": partial(reached, events=events) for events in (1, 3, 5, 7, 10)},
    **{f"inside save {step}": partial(saving, step=step) for step in (2, 6, 8, 12)},
}
"""Ten, spread over a training."""


@pytest.mark.slow
@pytest.mark.parametrize("moment", MOMENTS)
def test_a_training_killed_at_any_moment_ends_the_same(
    ready: Project, finished: Project, moment: str
):
    with started(ready.root, *stage_command("train", PLAIN)) as process:
        wait_until(lambda: MOMENTS[moment](ready) or process.poll() is not None, moment)
        os.kill(process.pid, signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
    outcome = run(ready.root, *stage_command("train", PLAIN))
    assert outcome.status == 0, outcome
    is_the_same(ready, finished)


def workers(root: int | None = None) -> list[psutil.Process]:
    """Those of the cluster that this process started, or another one; their loaders, which have
    the same title, are not among them."""
    titled = [each for each in psutil.Process(root).children(recursive=True) if is_titled(each)]
    pids = {each.pid for each in titled}
    return [each for each in titled if parent_of(each) not in pids]


def is_titled(process: psutil.Process) -> bool:
    try:
        return "RayTrainWorker" in "".join(process.cmdline()[:1])
    except psutil.Error:  # it has just ended
        return False


def parent_of(process: psutil.Process) -> int:
    try:
        return process.ppid()
    except psutil.Error:
        return -1


@contextmanager
def struck(project: Project, moment: str, number: int) -> Iterator[list[int]]:
    """Sends a signal to one of the two workers at a moment; gives their process ids."""
    found = list[int]()

    def strike() -> None:
        wait_until(lambda: MOMENTS[moment](project), moment)
        wait_until(lambda: len(workers()) == 2, "two workers")
        found.extend(each.pid for each in workers())
        os.kill(found[-1], number)

    thread = Thread(target=strike, daemon=True)
    thread.start()
    yield found
    thread.join()


def assert_a_struck_worker_changes_nothing(
    ready: Project, finished: Project, moment: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with struck(ready, moment, signal.SIGKILL) as pids:
        main_of("train")(PLAIN, ready)
    assert len(pids) == 2
    said = capsys.readouterr().out
    # a worker that dies before its group stands is replaced by Ray, which says so
    replaced = moment == "before the first step" and "A worker died" in said
    assert replaced or ("failed" in said and "starting again" in said)
    is_the_same(ready, finished)


def test_a_killed_worker_changes_nothing(
    ready: Project, finished: Project, ray_cluster: str, capsys: pytest.CaptureFixture[str]
):
    assert_a_struck_worker_changes_nothing(ready, finished, "after 5 events", capsys)


@pytest.mark.slow
@pytest.mark.parametrize("moment", list(MOMENTS)[:-1])  # the last save is the end of the workers
def test_a_worker_killed_at_any_moment_changes_nothing(
    ready: Project,
    finished: Project,
    ray_cluster: str,
    moment: str,
    capsys: pytest.CaptureFixture[str],
):
    assert_a_struck_worker_changes_nothing(ready, finished, moment, capsys)


@pytest.mark.slow
def test_a_worker_that_hangs_is_found_and_the_training_goes_on(
    ready: Project,
    finished: Project,
    ray_cluster: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    """The other worker, which waits for it, says where; MLflow keeps that."""
    monkeypatch.setattr("pipelines.cluster.training.STALL_SECONDS", 20.0)
    with struck(ready, "after 5 events", signal.SIGSTOP) as pids:
        main_of("train")(PLAIN, ready)
    assert [pid for pid in pids if psutil.pid_exists(pid)] == []
    assert "starting again" in capsys.readouterr().out
    is_the_same(ready, finished)
    uri = f"sqlite:///{ready.root / 'mlflow.db'}"
    client, (tracked_run,) = MlflowClient(uri, uri), tracked(ready)
    kept = [file.path for file in client.list_artifacts(tracked_run.info.run_id, "stacks")]
    assert kept
    text = Path(client.download_artifacts(tracked_run.info.run_id, kept[0])).read_text()
    assert "gradients.py" in text
    assert "all_reduce" in text


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
