"""The graph of ``dvc.yaml`` as DVC runs it: everything once, then only what a change concerns."""

import copy
import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipelines.project import Project
from segcore.files import read_json, sha256_of
from tests.pipelines.tiny_project import (
    PLAIN,
    SEARCHED,
    TABLE,
    Outcome,
    dvc_command,
    main_of,
    run,
    table,
    write_table,
)

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]
ROW_STAGES = ("recipe", "tune", "train", "evaluate", "benchmark")
FIRST = ("recipe", "evaluate", "benchmark")
"""What reads the table itself; the rest stands on what ``recipe`` makes of it."""
OTHER = "pspnet-resnet18-other"
ROWS = {"fcn-resnet18-tiny": SEARCHED, PLAIN: PLAIN, OTHER: PLAIN}
"""The rows of the recorded project, each with the finished row that it takes its files from."""

BASE = copy.deepcopy(TABLE)
del BASE["rows"][SEARCHED]["search"]
BASE["rows"][OTHER] = {**BASE["rows"][PLAIN], "dataset": "other"}
BASE["datasets"]["other"] = copy.deepcopy(BASE["datasets"]["tiny"])


def dvc(project: Project, *arguments: str, **extra: str) -> Outcome:
    outcome = run(project.root, *dvc_command(*arguments), **extra)
    assert outcome.status == 0, outcome
    return outcome


def stages_run(outcome: Outcome) -> list[str]:
    lines = outcome.out.splitlines()
    return [line.split("'")[1] for line in lines if line.startswith("Running stage '")]


def changed(project: Project) -> set[str]:
    return set(json.loads(dvc(project, "status", "--json").out))


def of_rows(*rows: str, verbs: tuple[str, ...] = ROW_STAGES) -> set[str]:
    return {f"{verb}@{row}" for verb in verbs for row in rows}


# --- a real run ----------------------------------------------------------------------------------


def test_repro_runs_everything_and_then_nothing(checkout: Callable[..., Project], ray_cluster: str):
    values = table(**{f"rows__{SEARCHED}": None, f"rows__{PLAIN}__workers": 1})
    values["datasets"]["tiny"]["recipe"] |= {"steps": 2, "evaluate_every": 2, "splits": ["val"]}
    project = checkout(values)
    outcome = dvc(project, "repro", RAY_ADDRESS=ray_cluster, RAY_AUTH_MODE="token")
    expected = ["download@tiny", "prepare@tiny", *(f"{verb}@{PLAIN}" for verb in ROW_STAGES)]
    assert sorted(stages_run(outcome)) == sorted([*expected, "report"])
    assert "Traceback" not in outcome.err
    (entry,) = read_json(project.reports / "leaderboard.json")
    assert (entry["row"], entry["steps"]) == (PLAIN, 2)
    lock = yaml.safe_load((project.root / "dvc.lock").read_text())["stages"]
    assert set(lock) == {*expected, "report"}
    written = {path: sha256_of(path) for path in project.run(PLAIN).rglob("*") if path.is_file()}
    again = dvc(project, "repro")
    assert stages_run(again) == []
    assert "Data and pipelines are up to date." in again.out
    assert {path: sha256_of(path) for path in written} == written


# --- what a change concerns ----------------------------------------------------------------------


@pytest.fixture(scope="module")
def recorded(finished: Project, checkout: Callable[..., Project]) -> Project:
    """Three rows on two datasets as if a repro had just run them. Changes are taken back."""
    project = checkout(BASE)
    for dataset in ("tiny", "other"):
        for folder in ("raw", "shards"):
            source = finished.root / "data" / folder / "tiny"
            shutil.copytree(source, project.root / "data" / folder / dataset)
    for row, source in ROWS.items():
        shutil.copytree(finished.run(source), project.run(row))
    shutil.copytree(finished.reports, project.reports)
    dvc(project, "commit", "--force")
    assert changed(project) == set()
    return project


@contextmanager
def edited(path: Path, text: str) -> Iterator[None]:
    before = path.read_text()
    path.write_text(text)
    try:
        yield
    finally:
        path.write_text(before)


@contextmanager
def changed_table(project: Project, **changes: Any) -> Iterator[None]:
    values = copy.deepcopy(BASE)
    for path, value in changes.items():
        *folders, last = path.split("__")
        place = values
        for folder in folders:
            place = place[folder]
        place[last] = value
    with edited(project.table, yaml.safe_dump(values, sort_keys=False)):
        yield


def changed_by_recipe(project: Project, *rows: str) -> set[str]:
    """Once the stage ``recipe`` of these rows has run; before, they all are what it was before."""
    paths = [project.run(row) / "recipe.json" for row in rows]
    with ExitStack() as stack:
        for row, path in zip(rows, paths, strict=True):
            stack.enter_context(edited(path, path.read_text()))
            main_of("recipe")(row, Project(project.root, project.table))
        return changed(project)


def test_a_value_of_a_row_concerns_that_row_alone(recorded: Project):
    with changed_table(recorded, **{f"rows__{PLAIN}__steps": 14}):
        assert changed(recorded) == of_rows(PLAIN, verbs=FIRST) | {"report"}
        assert changed_by_recipe(recorded, PLAIN) == of_rows(PLAIN) | {"report"}
    assert changed(recorded) == set()


def test_a_protocol_or_a_printed_score_concerns_no_training(recorded: Project):
    printed = {"source": "a list", "paper": "arXiv:1411.4038", "metrics": ["miou"], "score": [70]}
    for key, value in {"protocols": {"twice": {"flip": True}}, "published": printed}.items():
        with changed_table(recorded, **{f"rows__{PLAIN}__{key}": value}):
            assert changed_by_recipe(recorded, PLAIN) == of_rows(PLAIN, verbs=FIRST) | {"report"}


def test_a_methods_file_concerns_the_rows_of_that_method(recorded: Project):
    method = recorded.root / "segcore/models/pspnet.py"
    with edited(method, method.read_text() + "\n# changed\n"):
        trained = ("tune", "train", "benchmark")
        assert changed(recorded) == of_rows(PLAIN, OTHER, verbs=trained)
    with edited(recorded.root / "segcore/models/ocrnet.py", "# nobody's method here\n"):
        assert changed(recorded) == set()


def test_a_datasets_recipe_concerns_that_dataset_and_its_rows(recorded: Project):
    with changed_table(recorded, datasets__other__recipe__batch_size=2):
        concerned = {"download@other", "prepare@other"}
        assert changed(recorded) == concerned | of_rows(OTHER, verbs=FIRST)
        concerned |= {"report"} | of_rows(OTHER)
        assert changed_by_recipe(recorded, OTHER) == concerned


def test_the_defaults_concern_every_row_and_no_dataset(recorded: Project):
    with changed_table(recorded, defaults__seed=1):
        stages = changed_by_recipe(recorded, *ROWS)
        assert of_rows(*ROWS, verbs=("tune", "train", "benchmark")) <= stages
        assert not any(stage.startswith(("download", "prepare")) for stage in stages)


def test_how_scores_are_counted_concerns_no_training(recorded: Project):
    metrics = recorded.root / "segcore/metrics.py"
    with edited(metrics, metrics.read_text() + "\n# changed\n"):
        assert changed(recorded) == of_rows(*ROWS, verbs=("evaluate",))


def test_a_new_row_runs_alone(recorded: Project):
    row = {**BASE["rows"][PLAIN], "seed": 3}
    with changed_table(recorded, **{f"rows__{PLAIN}-seed3": row}):
        assert changed(recorded) == of_rows(f"{PLAIN}-seed3") | {"report"}


def test_twelve_rows_on_three_datasets_are_a_graph(recorded: Project):
    values = copy.deepcopy(BASE)
    values["datasets"]["third"] = values["datasets"]["tiny"]
    for number in range(9):
        values["rows"][f"{PLAIN}-{number}"] = {**BASE["rows"][PLAIN], "seed": number}
    with edited(recorded.table, yaml.safe_dump(values, sort_keys=False)):
        names = dvc(recorded, "stage", "list", "--name-only").out.split()
        assert len(names) == 12 * len(ROW_STAGES) + 3 * 2 + 1
        added = of_rows(*(f"{PLAIN}-{number}" for number in range(9)))
        assert changed(recorded) == added | {"report", "download@third", "prepare@third"}


def test_a_row_is_removed_by_taking_it_out_of_the_table(recorded: Project):
    """Last of all, since its report is written for good."""
    values = copy.deepcopy(BASE)
    del values["rows"][OTHER]
    write_table(recorded.root, values)
    assert changed(recorded) == {"report"}
    outcome = dvc(recorded, "repro")
    assert stages_run(outcome) == ["report"]
    board = read_json(recorded.reports / "leaderboard.json")
    assert {entry["row"] for entry in board} == {"fcn-resnet18-tiny", PLAIN}
    assert OTHER not in (recorded.reports / "index.html").read_text()
    assert changed(recorded) == set()
