"""Searches on a cluster: what they leave, how they go on after a kill, what a failure costs."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import ExitStack
from itertools import count as count_from
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from mlflow import MlflowClient

from pipelines.cluster.trials import progress
from pipelines.project import Project
from segcore.checkpoints import STATE
from segcore.errors import InputError
from segcore.files import read_json
from segcore.journal import Journal, read_lines
from segcore.search import as_trial
from tests.pipelines.tiny_project import (
    PLAIN,
    ROOT,
    SEARCHED,
    main_of,
    run,
    stage_command,
    started,
    table,
    wait_until,
    write_table,
)

SEARCH = f"rows__{SEARCHED}__search"
RATES = {"space": {"learning_rate": {"choice": [0.02, 1e30]}}, "algorithm": "grid", "trials": None}


def searched(project: Project) -> dict[str, Any]:
    return read_json(project.run(SEARCHED) / "search.json")


def tracked(project: Project, kind: str) -> list[Any]:
    uri = f"sqlite:///{project.root / 'mlflow.db'}"
    client = MlflowClient(uri, uri)
    experiment = client.get_experiment_by_name("tiny")
    assert experiment
    found = client.search_runs([experiment.experiment_id], f"tags.kind = '{kind}'")
    return sorted(found, key=lambda each: each.info.run_name)


def changed(row: dict[str, Any], **search: Any) -> dict[str, Any]:
    return table(**row, **{f"{SEARCH}__{key}": value for key, value in search.items()})


@pytest.fixture
def with_search(prepared: Project, copy_of: Callable[..., Project]) -> Callable[..., Project]:
    """The prepared project, its search changed."""

    def project(**changes: Any) -> Project:
        return write_table(copy_of(prepared, "data/shards").root, changed({}, **changes))

    return project


def test_a_row_without_a_search_loads_neither_ray_nor_torch(with_search: Callable[..., Project]):
    code = (
        "import sys; from pathlib import Path; from pipelines import tune; "
        "from pipelines.project import Project; "
        f"tune.main('{PLAIN}', Project(Path.cwd(), Path('params.yaml'))); "
        "loaded = {'ray', 'torch', 'mlflow', 'optuna', 'matplotlib'} & {*sys.modules}; "
        "sys.exit(' '.join(loaded) or None)"
    )
    outcome = run(with_search().root, sys.executable, "-c", code)
    assert (outcome.status, outcome.err) == (0, "")


# --- one trial, killed ----------------------------------------------------------------------------


def order_of(project: Project, folder: Path) -> dict[str, Any]:
    """A trial of 8 steps with augmentation and two loader workers."""
    resolved = project.row(SEARCHED)
    assert resolved.search
    plan = resolved.search.model_copy(update={"steps": 8, "evaluate_every": 2})
    base = as_trial(resolved.model_dump(mode="json"), plan, {"loader_workers": 2})
    values = {"learning_rate": 0.02, "options.width": 6}
    shards = str(project.shards("tiny").resolve())
    return {"folder": str(folder), "shards": shards, "base": base, "values": values, "until": 8}


def die(order: str, moment: str) -> None:
    """Trains a trial in a process of its own, which kills itself at the moment."""
    kind, count = moment.split()
    calls = count_from(1)

    def killing(*arguments: Any) -> None:
        if next(calls) == int(count):
            os.kill(os.getpid(), signal.SIGKILL)
        original(*arguments)

    if kind == "save":  # the file is written, and not yet in its place
        original = os.fsync
        os.fsync = killing
    else:
        original = Journal.record
        Journal.record = killing
    for _ in progress(**json.loads(order)):
        pass


def figures_of(folder: Path) -> list[tuple[Any, ...]]:
    names = "event", "step", "loss", "learning_rate", "miou"
    return [tuple(line.get(n) for n in names) for line in read_lines(folder / "metrics.jsonl")]


def assert_equal(ours: Any, theirs: Any) -> None:
    """Nested states, bit for bit."""
    if isinstance(ours, dict):
        assert ours.keys() == theirs.keys()
        for key, value in ours.items():
            assert_equal(value, theirs[key])
    elif isinstance(ours, list | tuple):
        for mine, other in zip(ours, theirs, strict=True):
            assert_equal(mine, other)
    elif isinstance(ours, torch.Tensor):
        assert torch.equal(ours, theirs)
    else:
        assert ours == theirs


def go_on_after(moments: list[str], project: Project, place: Path) -> None:
    whole = list(progress(**order_of(project, place / "whole")))
    assert [figures["step"] for figures in whole] == [2, 4, 6, 8]
    expected = torch.load(place / "whole/step-0000008" / STATE, weights_only=True)
    code = "import sys; from tests.pipelines.test_tuning import die; die(*sys.argv[1:])"
    with ExitStack() as stack:
        processes = list[subprocess.Popen[str]]()
        for number, moment in enumerate(moments):
            order = json.dumps(order_of(project, place / str(number)))
            command = sys.executable, "-c", code, order, moment
            processes.append(stack.enter_context(started(ROOT, *command)))
        for process in processes:
            assert process.wait(240) == -signal.SIGKILL, process.communicate()
    for number, moment in enumerate(moments):
        folder = place / str(number)
        saved = max((int(path.name[5:]) for path in folder.glob("step-*")), default=0)
        assert saved < 8, moment
        order: dict[str, Any] = order_of(project, folder) | {"reported": max(saved - 2, 0)}
        again = list(progress(**order))  # the last one before the kill may not have been heard
        scores = [(figures["step"], figures["miou"]) for figures in again]
        told = [(figures["step"], figures["miou"]) for figures in whole]
        assert scores == told[max(saved // 2 - 1, 0) :], moment
        assert figures_of(folder) == figures_of(place / "whole"), moment
        state = torch.load(folder / "step-0000008" / STATE, weights_only=True)
        assert_equal(state, expected)
        kept = sorted(path.name for path in folder.glob("step-*"))
        assert kept == ["step-0000006", "step-0000008"]


@pytest.mark.long
def test_a_killed_trial_goes_on_bit_for_bit(prepared: Project, tmp_path: Path):
    go_on_after(["save 2", "event 7"], prepared, tmp_path)


@pytest.mark.slow
def test_a_trial_killed_at_any_moment_goes_on_bit_for_bit(prepared: Project, tmp_path: Path):
    """Eight steps, four evaluations and four saves are sixteen events."""
    moments = ["save 1", "save 3", "save 4", *(f"event {n}" for n in (1, 2, 3, 6, 9, 13, 16))]
    for first in range(0, len(moments), 2):
        go_on_after(moments[first : first + 2], prepared, tmp_path / str(first))


# --- searches -------------------------------------------------------------------------------------


def ledger_of(project: Project) -> list[dict[str, Any]]:
    path = next(project.work.glob(f"tune-{SEARCHED}-*/trials.jsonl"), None)
    return read_lines(path) if path else []


@pytest.mark.cluster
@pytest.mark.timeout(600)
def test_a_killed_search_goes_on_and_ends_the_same(finished: Project, copy_of: Callable[..., Any]):
    project = copy_of(finished, "data/shards")
    with started(project.root, *stage_command("tune", SEARCHED)) as process:
        wait_until(
            lambda: len(ledger_of(project)) >= 5 or process.poll() is not None, "the second trial"
        )
        os.kill(process.pid, signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
    before = ledger_of(project)
    assert 0 < sum(event["event"] == "ended" for event in before) < 3
    assert not (project.run(SEARCHED) / "search.json").exists()
    outcome = run(project.root, *stage_command("tune", SEARCHED))
    assert outcome.status == 0, outcome
    assert searched(project) == searched(finished)
    assert not list(project.work.glob("tune-*"))
    (study,) = tracked(project, "study")
    trials = tracked(project, "trial")
    assert [each.info.status for each in (study, *trials)] == ["FINISHED"] * 4
    uri = f"sqlite:///{project.root / 'mlflow.db'}"
    for tracked_run, trial in zip(trials, searched(project)["trials"], strict=True):
        points = MlflowClient(uri, uri).get_metric_history(tracked_run.info.run_id, "miou")
        assert [[point.step, point.value] for point in points] == trial["history"]


@pytest.mark.cluster
@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_best_trial_is_a_row_that_scores_the_same(
    finished: Project, copy_of: Callable[..., Project]
):
    project = copy_of(finished, "data/shards")
    result = searched(finished)
    shown = yaml.safe_load((finished.run(SEARCHED) / "search/best.yaml").read_text())
    values = table()
    values["rows"] |= shown["rows"]
    (name,) = shown["rows"]
    project = write_table(project.root, values)
    for verb in ("tune", "train"):
        main_of(verb)(name, project)
    lines = read_lines(project.run(name) / "metrics.jsonl")
    scores = [[line["step"], line["miou"]] for line in lines if line["event"] == "evaluated"]
    best = next(trial for trial in result["trials"] if trial["id"] == result["best_trial"])
    assert scores[: len(best["history"])] == best["history"]
    assert len(scores) == 2


@pytest.mark.cluster
@pytest.mark.timeout(600)
def test_a_trial_that_diverges_has_failed_and_the_search_goes_on(
    with_search: Callable[..., Project], ray_cluster: str
):
    project = with_search(**RATES, seeds=2)
    main_of("tune")(SEARCHED, project)
    result = searched(project)
    good, bad = result["trials"]
    assert (good["status"], bad["status"], result["best_trial"]) == ("finished", "failed", "000")
    assert "the loss is" in bad["error"]
    assert "lower learning_rate" in bad["error"]
    assert [each.info.status for each in tracked(project, "trial")] == ["FINISHED", "FAILED"]
    assert [each.info.status for each in tracked(project, "study")] == ["FINISHED"]
    scores = result["seeds"]["scores"]
    assert scores.keys() == {"1", "2"}
    assert len({good["miou"], *scores.values()}) == 3
    assert result["seeds"]["mean"] == pytest.approx(sum(scores.values()) / 2)


@pytest.mark.cluster
@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_search_whose_trials_all_diverge_fails(
    with_search: Callable[..., Project], ray_cluster: str
):
    project = with_search(**RATES | {"space": {"learning_rate": {"choice": [1e30, 2e30]}}})
    with pytest.raises(InputError, match=r"all 2 trials failed; the first: the loss is"):
        main_of("tune")(SEARCHED, project)
    assert not (project.run(SEARCHED) / "search.json").exists()
    assert [each.info.status for each in tracked(project, "study")] == ["FAILED"]


@pytest.mark.cluster
@pytest.mark.slow
@pytest.mark.timeout(900)
def test_trials_of_two_workers_score_as_those_of_one(
    with_search: Callable[..., Project], ray_cluster: str
):
    """Two trials of two workers fill four slots; the other search runs its trials in turn.

    Without dropout, which is drawn for each worker, and at rates that rounding does not amplify.
    """
    rates = {"learning_rate": {"loguniform": [0.0001, 0.001]}}
    plan = {"algorithm": "tpe", "trials": 2, "space": rates}
    calm = {f"rows__{SEARCHED}__options__dropout": 0.0, f"rows__{SEARCHED}__options__width": 8}
    alone = write_table(with_search().root, changed(calm, **plan, concurrent=1))
    main_of("tune")(SEARCHED, alone)
    expected = searched(alone)["trials"]
    project = write_table(alone.root, changed(calm, **plan, concurrent=2, workers=2))
    main_of("tune")(SEARCHED, project)
    trials = searched(project)["trials"]
    assert [trial["values"] for trial in trials] == [trial["values"] for trial in expected]
    for trial, other in zip(trials, expected, strict=True):
        assert trial["status"] == "finished"
        assert [step for step, _ in trial["history"]] == [1, 2]
        assert trial["miou"] == pytest.approx(other["miou"], abs=0.02)


@pytest.mark.cluster
@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_population_trains_from_its_checkpoints(
    with_search: Callable[..., Project], ray_cluster: str
):
    project = with_search(
        space={"learning_rate": {"loguniform": [0.001, 0.1]}},
        algorithm="pbt",
        trials=4,
        steps=6,
        evaluate_every=2,
        grace=2,
        concurrent=None,
    )
    main_of("tune")(SEARCHED, project)
    trials = searched(project)["trials"]
    assert [trial["status"] for trial in trials] == ["finished"] * 4
    for trial in trials:
        assert [step for step, _ in trial["history"]] == [2, 4, 6]
    assert any("former" in trial for trial in trials)
    assert [each.info.status for each in tracked(project, "trial")] == ["FINISHED"] * 4


@pytest.mark.cluster
@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("algorithm", ["asha", "pbt"])
def test_a_trial_whose_patience_is_at_its_end_goes_no_further(
    algorithm: str, prepared: Project, copy_of: Callable[..., Project], ray_cluster: str
):
    """They hardly learn at such rates: where one stands as it stood, it reports nothing more."""
    plan = {"algorithm": algorithm, "trials": 4, "steps": 16, "evaluate_every": 1, "grace": 2}
    rates = {"learning_rate": {"loguniform": [1e-9, 1e-8]}}
    values = changed({f"rows__{SEARCHED}__patience": 1}, space=rates, **plan)
    project = write_table(copy_of(prepared, "data/shards").root, values)
    main_of("tune")(SEARCHED, project)
    trials = searched(project)["trials"]
    assert {trial["status"] for trial in trials} == {"stopped"}
    assert all(1 < len(trial["history"]) < 16 for trial in trials)


@pytest.mark.cluster
@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_search_for_speed_and_score_has_a_front(
    with_search: Callable[..., Project], ray_cluster: str
):
    project = with_search(algorithm="tpe", latency=True, trials=4)
    main_of("tune")(SEARCHED, project)
    result = searched(project)
    assert all(0 < trial["latency_ms"] < 10_000 for trial in result["trials"])
    assert result["best_trial"] in result["front"]
    assert (project.run(SEARCHED) / "search/latency.png").exists()
