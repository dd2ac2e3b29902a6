"""The stages in their order on the tiny project; what they wrote, checked number by number."""

import csv
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from mlflow import MlflowClient
from PIL import Image
from sklearn.metrics import accuracy_score, jaccard_score, recall_score

from pipelines import predict, tune
from pipelines.cluster import connection
from pipelines.project import Project
from pipelines.registration import held_version
from pipelines.tracking import open_store
from segcore.errors import InputError
from segcore.files import read_json, sha256_of
from segcore.inference import predict_labels
from segcore.model_files import load_model
from segcore.row import Run
from segcore.shards import Manifest, ShardReader
from tests.pipelines.tiny_project import (
    PLAIN,
    SEARCHED,
    STEPS,
    TABLE,
    main_of,
    table,
    write_table,
)

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]
ROWS = (PLAIN, SEARCHED)
TRACKED_ONCE = {"learning_rate": "0.01", "method": "pspnet", "options.width": "8", "seed": "0"}


@pytest.fixture(scope="module")
def client(finished: Project) -> MlflowClient:
    uri = f"sqlite:///{finished.root / 'mlflow.db'}"
    return MlflowClient(uri, uri)


@pytest.fixture(scope="module")
def runs(client: MlflowClient) -> list[Any]:
    experiment = client.get_experiment_by_name("tiny")
    assert experiment
    return list(client.search_runs([experiment.experiment_id], max_results=100))


def of_kind(runs: list[Any], kind: str) -> list[Any]:
    return [run for run in runs if run.data.tags["kind"] == kind]


def events_of(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


# --- data ----------------------------------------------------------------------------------------


def test_the_inventory_names_every_raw_file_by_its_hash(prepared: Project):
    raw = prepared.raw("tiny")
    files = read_json(raw / "inventory.json")["files"]
    assert [split for split, *_ in files] == ["train"] * 16 + ["val"] * 8
    for _, name, size, digest in files:
        assert (raw / name).stat().st_size == size
        assert sha256_of(raw / name) == digest


def test_the_manifest_states_what_the_shards_hold(prepared: Project):
    folder = prepared.shards("tiny")
    manifest = Manifest.read(str(folder))
    assert {split: facts["images"] for split, facts in manifest.splits.items()} == {
        "train": 8,
        "val": 4,
    }
    for split, facts in manifest.splits.items():
        for shard in facts["shards"]:
            assert sha256_of(folder / shard["name"]) == shard["sha256"]
        reader = ShardReader(str(folder), split)
        labels = torch.stack([reader[index].labels for index in range(len(reader))])
        counts = torch.bincount(labels.flatten().long(), minlength=256)
        assert facts["pixels"] == counts[:10].tolist()
        assert facts["void_pixels"] == int(counts[255])
        assert sum(facts["pixels"]) + facts["void_pixels"] == len(reader) * 48 * 64
    assert len(manifest.splits["train"]["shards"]) == 2


def test_the_same_table_gives_the_same_shards_byte_for_byte(prepared: Project, tmp_path: Path):
    again = write_table(tmp_path, TABLE)
    for verb in ("download", "prepare"):
        main_of(verb)("tiny", again)
    names = sorted(path.name for path in prepared.shards("tiny").iterdir())
    assert sorted(path.name for path in again.shards("tiny").iterdir()) == names
    for name in names:
        assert sha256_of(again.shards("tiny") / name) == sha256_of(prepared.shards("tiny") / name)


# --- tune ----------------------------------------------------------------------------------------


def test_a_search_tries_its_space_and_keeps_the_best(finished: Project):
    result = read_json(finished.run(SEARCHED) / "search.json")
    trials = result["trials"]
    assert [trial["id"] for trial in trials] == ["000", "001", "002"]
    for trial in trials:
        assert set(trial["values"]) == {"learning_rate", "options.width"}
        assert 0.001 <= trial["values"]["learning_rate"] <= 0.1
        assert trial["values"]["options.width"] in (6, 10)
        steps = [step for step, _ in trial["history"]]
        assert steps == list(range(1, trial["steps"] + 1))
        assert trial["miou"] == max(miou for _, miou in trial["history"])
        assert trial["status"] == ("finished" if trial["steps"] == 2 else "stopped")
    assert len({trial["values"]["learning_rate"] for trial in trials}) == 3
    best = max(trials, key=lambda trial: trial["miou"])
    assert (result["best"], result["best_trial"]) == (best["values"], best["id"])


def test_a_search_leaves_a_table_a_row_and_pictures(finished: Project):
    folder = finished.run(SEARCHED) / "search"
    names = ["early_stopping", "history", "importance", "parallel_coordinates"]
    pictures = [f"{name}.png" for name in names]
    assert sorted(path.name for path in folder.iterdir()) == ["best.yaml", *pictures, "trials.csv"]
    trials = read_json(finished.run(SEARCHED) / "search.json")["trials"]
    with (folder / "trials.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["trial"] for row in rows] == [trial["id"] for trial in trials]
    for row, trial in zip(rows, trials, strict=True):
        assert float(row["learning_rate"]) == trial["values"]["learning_rate"]
        assert float(row["miou"]) == trial["miou"]
    for name in pictures:
        with Image.open(folder / name) as picture:
            assert min(picture.size) > 200
            assert len(np.unique(np.asarray(picture.convert("L")))) > 20  # something is drawn on it


def test_what_a_search_found_is_what_training_uses(finished: Project):
    best = read_json(finished.run(SEARCHED) / "search.json")["best"]
    config = read_json(finished.run(SEARCHED) / "config.json")
    assert config["learning_rate"] == best["learning_rate"]
    assert config["options"]["width"] == best["options.width"]
    weights = load_model(finished.run(SEARCHED)).network.state_dict()
    assert weights["convs.0.0.weight"].shape[0] == best["options.width"]


def test_a_row_without_a_search_passes_with_nothing_tuned(finished: Project):
    result = read_json(finished.run(PLAIN) / "search.json")
    assert result == {"metric": "miou", "space": {}, "best": {}, "trials": []}
    assert [path.name for path in (finished.run(PLAIN) / "search").iterdir()] == ["trials.csv"]


def test_trials_need_one_worker_each_however_many_the_row_trains_on(
    prepared: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Four slots carry four trials side by side, also of a row that trains on two workers."""
    shutil.copytree(prepared.root / "data", tmp_path / "data")
    changes = {f"rows__{SEARCHED}__workers": 2, f"rows__{SEARCHED}__search__concurrent": 4}
    project = write_table(tmp_path, table(**changes))
    monkeypatch.setattr(connection.ray, "is_initialized", lambda: True)
    asked = list[Run]()

    def search_row(values: dict[str, Any], run: Run, *_: Any) -> dict[str, float]:
        asked.append(run)
        return {}

    monkeypatch.setattr("pipelines.cluster.searching.search_row", search_row)
    run = project.row(SEARCHED)
    assert run.search
    with pytest.raises(InputError, match="all 0 trials failed"):  # none was started
        tune._search(SEARCHED, run, run.search, project)
    assert [run.workers for run in asked] == [1]


# --- train ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("row", ROWS)
def test_training_leaves_every_step_once_and_the_best_weights(finished: Project, row: str):
    events = events_of(finished.run(row))
    steps = [event for event in events if event["event"] == "step"]
    scored = [event for event in events if event["event"] == "evaluated"]
    assert [event["step"] for event in steps] == list(range(1, STEPS + 1))
    assert [event["step"] for event in scored] == [6, 12]
    first = read_json(finished.run(row) / "config.json")["learning_rate"]
    expected = [first * (1 - done / STEPS) ** 0.9 for done in range(STEPS)]
    assert [event["learning_rate"] for event in steps] == pytest.approx(expected, rel=1e-6)
    best = max(event["miou"] for event in scored)
    assert read_json(finished.run(row) / "registered.json")["miou"] == best
    # the weights are those that scored best, not the last ones
    assert read_json(finished.run(row) / "scores.json")["splits"]["val"]["miou"] == best


@pytest.mark.parametrize("row", ROWS)
def test_the_registered_version_holds_the_rows_files(
    finished: Project, client: MlflowClient, row: str
):
    registered = read_json(finished.run(row) / "registered.json")
    for alias in ("candidate", "champion"):
        found = client.get_model_version_by_alias(row, alias)
        assert int(found.version) == registered["version"] == 1
        assert found.run_id == registered["run_id"]
    folder = open_store(finished.root).fetch(row, "champion")
    for name, digest in registered["files"].items():
        assert sha256_of(folder / name) == digest == sha256_of(finished.run(row) / name)


# --- evaluate ------------------------------------------------------------------------------------


@pytest.mark.parametrize("row", ROWS)
@pytest.mark.parametrize("split", ["val", "train"])
def test_the_scores_are_those_of_scikit_learn(finished: Project, row: str, split: str):
    scores = read_json(finished.run(row) / "scores.json")["splits"][split]
    network = load_model(finished.run(row)).network
    reader = ShardReader(str(finished.shards("tiny")), split)
    samples = [reader[index] for index in range(len(reader))]
    labels = np.concatenate([sample.labels.numpy().ravel() for sample in samples])
    found = np.concatenate(
        [predict_labels(network, sample.image[None]).numpy().ravel() for sample in samples]
    )
    counted = labels != 255
    labels, found = labels[counted], found[counted]
    present = sorted(set(labels.tolist()))
    seen = sorted({*present, *found.tolist()})  # what is only predicted counts, as 0
    iou = jaccard_score(labels, found, labels=seen, average=None, zero_division=0)
    recall = recall_score(labels, found, labels=present, average="macro", zero_division=0)
    assert scores["miou"] == pytest.approx(iou.mean(), abs=1e-12)
    assert [scores["iou"][index] for index in seen] == pytest.approx(iou.tolist(), abs=1e-12)
    assert scores["mean_accuracy"] == pytest.approx(recall, abs=1e-12)
    assert scores["pixel_accuracy"] == pytest.approx(accuracy_score(labels, found), abs=1e-12)
    assert np.sum(scores["confusion"]) == counted.sum()
    assert scores["images"] == len(reader)
    assert [image["id"] for image in scores["per_image"]] == [sample.id for sample in samples]


def test_the_worst_and_the_best_image_are_drawn(finished: Project):
    folder = finished.run(PLAIN) / "overlays"
    expected = {f"{s}-{p}.png" for s in ("val", "train") for p in ("best", "median", "worst")}
    listed = {"val-images.json", "train-images.json"}
    assert {path.name for path in folder.iterdir()} == expected | listed
    for name in expected:
        with Image.open(folder / name) as picture:
            assert picture.width >= 3 * 64  # input, label and prediction side by side


@pytest.mark.parametrize("file", ["scores.json", "config.json"])
@pytest.mark.parametrize("row", ROWS)
def test_results_hold_no_identity_time_or_place(finished: Project, row: str, file: str):
    text = (finished.run(row) / file).read_text()
    lineage = read_json(finished.run(row) / "lineage.json")
    assert lineage["run_id"] not in text
    assert lineage["evaluated_at"][:10] not in text
    assert str(finished.root) not in text
    assert not re.search(r'"(run_id|version|time|date|evaluated_at|host|commit)"', text)


def test_lineage_says_where_the_scores_come_from(finished: Project):
    lineage = read_json(finished.run(PLAIN) / "lineage.json")
    registered = read_json(finished.run(PLAIN) / "registered.json")
    assert lineage["model"] == PLAIN
    assert lineage["version"] == str(registered["version"])
    assert lineage["run_id"] == registered["run_id"]
    assert lineage["data_hash"] == Manifest.read(str(finished.shards("tiny"))).data_hash
    assert lineage["aliases"] == ["candidate", "champion"]


def test_a_second_evaluate_writes_the_same_scores_and_moves_nothing(
    finished: Project, client: MlflowClient
):
    folder = finished.run(PLAIN)
    before = {path: sha256_of(path) for path in [*folder.glob("*.json"), *folder.glob("*/*.png")]}
    main_of("evaluate")(PLAIN, finished)
    changed = {path.name for path in before if sha256_of(path) != before[path]}
    assert changed <= {"lineage.json"}
    history = json.loads(client.get_registered_model(PLAIN).tags["history"])
    assert [move["alias"] for move in history] == ["candidate", "champion"]


def test_a_lost_registry_is_filled_again_from_the_rows_files(
    finished: Project, copy_of: Callable[..., Project], capsys: pytest.CaptureFixture[str]
):
    copy = copy_of(finished, "data/shards", "runs")
    folder = copy.run(PLAIN)
    untouched = {path: sha256_of(path) for path in folder.iterdir() if path.is_file()}
    del untouched[folder / "lineage.json"]
    # registered.json of a project that had trained twice: the new registry begins at 1
    registered = read_json(folder / "registered.json") | {"version": 2}
    (folder / "registered.json").write_text(json.dumps(registered))
    untouched[folder / "registered.json"] = sha256_of(folder / "registered.json")
    main_of("evaluate")(PLAIN, copy)
    assert f"{PLAIN}: the registry had lost these weights" in capsys.readouterr().out
    # scores.json is the same, and no output of another stage was written to
    assert {path: sha256_of(path) for path in untouched} == untouched
    store = open_store(copy.root)
    assert [version.number for version in store.versions(PLAIN)] == [1]
    assert store.aliases(PLAIN, 1) == ["candidate", "champion"]
    assert read_json(folder / "lineage.json")["version"] == "1"
    main_of("evaluate")(PLAIN, copy)
    assert "had lost" not in capsys.readouterr().out
    assert [version.number for version in store.versions(PLAIN)] == [1]


def test_a_version_of_the_same_number_but_other_weights_is_not_scored(
    finished: Project, copy_of: Callable[..., Project]
):
    copy = copy_of(finished, "data/shards", "runs")
    store = open_store(copy.root)
    other = store.start("tiny", "another training", config={})
    shutil.copytree(copy.run(SEARCHED), copy.root / "other")
    assert store.register(other, PLAIN, copy.root / "other") == 1
    held = held_version(store, PLAIN, copy.run(PLAIN))
    assert held.number == 2
    digest = read_json(copy.run(PLAIN) / "registered.json")["files"]["weights.safetensors"]
    assert sha256_of(store.fetch(PLAIN, held.number) / "weights.safetensors") == digest


def test_a_model_of_other_classes_is_refused(
    finished: Project, copy_of: Callable[..., Project], tmp_path: Path
):
    copy = copy_of(finished, "data/shards", "runs", "mlflow.db")
    manifest = copy.shards("tiny") / "manifest.json"
    values = read_json(manifest)
    text = json.dumps(values).replace('"pedestrian"', '"rider"')
    assert text != json.dumps(values)
    manifest.write_text(text)
    with pytest.raises(InputError, match=rf"trained on other classes.*dvc repro train@{PLAIN}"):
        main_of("evaluate")(PLAIN, copy)


# --- benchmark and report ------------------------------------------------------------------------


@pytest.mark.parametrize("row", ROWS)
def test_the_benchmark_counts_the_network_as_it_is_deployed(finished: Project, row: str):
    result = read_json(finished.run(row) / "benchmark.json")
    network = load_model(finished.run(row)).network
    deployed = {n: p for n, p in network.named_parameters() if not n.startswith("auxiliary")}
    assert result["parameters"] == sum(each.numel() for each in deployed.values())
    assert result["image_size"] == [48, 64]
    assert result["flops"] > 2 * result["parameters"]  # every weight is used at several places
    assert result["fps"] == pytest.approx(1000 / result["latency_ms"]["median"])


def test_the_leaderboard_repeats_the_scores(finished: Project):
    board = read_json(finished.reports / "leaderboard.json")
    assert sorted(entry["row"] for entry in board) == sorted(ROWS)
    assert board[0]["miou"] >= board[1]["miou"]
    for entry in board:
        folder = finished.run(entry["row"])
        scores = read_json(folder / "scores.json")["splits"]["val"]
        benchmark = read_json(folder / "benchmark.json")
        for figure in ("miou", "pixel_accuracy", "mean_accuracy"):
            assert entry[figure] == scores[figure]
        assert (entry["fps"], entry["parameters"]) == (benchmark["fps"], benchmark["parameters"])
        assert (entry["batch_size"], entry["steps"], entry["split"]) == (4, STEPS, "val")
        line = next(
            line
            for line in (finished.reports / "leaderboard.md").read_text().splitlines()
            if f" {entry['row']} " in line
        )
        assert f"| {100 * scores['miou']:.2f} | {100 * scores['pixel_accuracy']:.2f} |" in line


def test_the_page_holds_every_row_and_needs_no_network(finished: Project):
    page = (finished.reports / "index.html").read_text()
    for row in ROWS:
        assert row in page
        miou = read_json(finished.run(row) / "scores.json")["splits"]["val"]["miou"]
        assert f"{100 * miou:.2f}" in page
    assert not re.findall(r'(?:src|href)="(?:https?:)?//[^"]*"', page)
    assert page.count("data:image/webp") >= 2 * 4 + 4 * len(ROWS)  # images, labels, predictions


def test_the_best_row_is_published_under_the_datasets_name(finished: Project, client: MlflowClient):
    best = read_json(finished.reports / "leaderboard.json")[0]["row"]
    version = client.get_model_version_by_alias("tiny", "champion")
    assert version.tags["row"] == best
    folder = open_store(finished.root).fetch("tiny", "champion")
    weights = finished.run(best) / "weights.safetensors"
    assert sha256_of(folder / "weights.safetensors") == sha256_of(weights)


def test_a_report_fills_a_lost_registry_too(finished: Project, copy_of: Callable[..., Project]):
    copy = copy_of(finished, "runs", "data/shards")
    main_of("report")("", copy)
    store = open_store(copy.root)
    for model in (*ROWS, "tiny"):
        assert [version.number for version in store.versions(model)] == [1]
    assert (copy.reports / "leaderboard.md").read_text() == (
        finished.reports / "leaderboard.md"
    ).read_text()


# --- what MLflow knows ---------------------------------------------------------------------------


def test_mlflow_has_a_study_with_its_trials_and_a_run_per_training(runs: list[Any]):
    (study,) = of_kind(runs, "study")
    trials, trainings = of_kind(runs, "trial"), of_kind(runs, "training")
    assert len(runs) == 1 + 3 + 2
    assert {run.data.tags["mlflow.parentRunId"] for run in trials} == {study.info.run_id}
    assert len(trials) == 3
    assert {run.data.tags["row"] for run in trainings} == set(ROWS)
    assert {run.info.status for run in runs} == {"FINISHED"}


def test_each_trial_is_tracked_with_its_values_and_its_curve(
    finished: Project, client: MlflowClient, runs: list[Any]
):
    trials = {t["id"]: t for t in read_json(finished.run(SEARCHED) / "search.json")["trials"]}
    for run in of_kind(runs, "trial"):
        trial = trials.pop(run.info.run_name[-3:])
        for key, value in trial["values"].items():
            assert float(run.data.params[key]) == value
        curve = client.get_metric_history(run.info.run_id, "miou")
        assert [[point.step, point.value] for point in curve] == trial["history"]
    assert not trials
    (study,) = of_kind(runs, "study")
    assert study.data.metrics["best_miou"] == max(
        trial["miou"] for trial in read_json(finished.run(SEARCHED) / "search.json")["trials"]
    )
    names = {file.path for file in client.list_artifacts(study.info.run_id)}
    assert names >= {"trials.json", "history.png", "parallel_coordinates.png", "config.json"}


def test_a_training_is_tracked_whole(finished: Project, client: MlflowClient, runs: list[Any]):
    run = next(run for run in of_kind(runs, "training") if run.data.tags["row"] == PLAIN)
    run_id, folder = run.info.run_id, finished.run(PLAIN)
    assert TRACKED_ONCE.items() <= run.data.params.items()
    events = events_of(folder)
    for kind, figure in (("step", "loss"), ("step", "learning_rate"), ("evaluated", "miou")):
        expected = [(e["step"], e[figure]) for e in events if e["event"] == kind]
        points = client.get_metric_history(run_id, figure)
        assert [(point.step, point.value) for point in points] == expected
    scores = read_json(folder / "scores.json")["splits"]
    for split in ("val", "train"):
        assert run.data.metrics[f"{split}.miou"] == scores[split]["miou"]
    benchmark = read_json(folder / "benchmark.json")
    assert run.data.metrics["benchmark.parameters"] == benchmark["parameters"]
    data_hash = Manifest.read(str(finished.shards("tiny"))).data_hash
    (dataset,) = run.inputs.dataset_inputs
    assert (dataset.dataset.name, dataset.dataset.digest) == ("tiny", data_hash[:36])
    assert run.data.tags["data_hash"] == data_hash
    names = {file.path for file in client.list_artifacts(run_id)}
    assert names >= {"config.json", "overlays", "val_classes.json", "train_classes.json"}
    logged = Path(client.download_artifacts(run_id, "config.json"))
    config = read_json(folder / "config.json")
    assert json.loads(logged.read_text()) == {"row": config.pop("key"), **config}


# --- predict -------------------------------------------------------------------------------------


@pytest.fixture
def in_project(finished: Project, monkeypatch: pytest.MonkeyPatch) -> Project:
    monkeypatch.chdir(finished.root)
    return finished


def read_labels(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        assert image.mode == "P"
        return np.asarray(image)


def test_predict_labels_an_image_as_the_network_does(in_project: Project, tmp_path: Path):
    image = in_project.raw("tiny") / "images/val/00002.png"
    predict.predict([image], PLAIN, tmp_path)
    with Image.open(image) as opened:
        pixels = torch.from_numpy(np.array(opened)).permute(2, 0, 1)
    expected = predict_labels(load_model(in_project.run(PLAIN)).network, pixels[None])[0]
    assert np.array_equal(read_labels(tmp_path / "00002-labels.png"), expected.numpy())
    with Image.open(tmp_path / "00002-overlay.png") as overlay:
        assert overlay.size == (64, 48)


def test_predict_takes_a_folder_of_any_sizes_and_an_alias(in_project: Project, tmp_path: Path):
    folder = tmp_path / "photos"
    (folder / "inner").mkdir(parents=True)
    Image.new("L", (33, 47), 90).save(folder / "grey.jpg")
    Image.new("RGBA", (64, 32), (9, 90, 190, 40)).save(folder / "inner/clear.PNG")
    (folder / "notes.txt").write_text("no image")
    predict.predict([folder], f"{PLAIN}@candidate", tmp_path / "out")
    names = {"grey-overlay.png", "grey-labels.png", "clear-overlay.png", "clear-labels.png"}
    assert {path.name for path in (tmp_path / "out").iterdir()} == names
    assert read_labels(tmp_path / "out/grey-labels.png").shape == (47, 33)
    assert read_labels(tmp_path / "out/clear-labels.png").shape == (32, 64)


def test_predict_without_an_image_draws_one_and_takes_the_best_row(
    in_project: Project, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    predict.predict([], None, tmp_path)
    (labels,) = tmp_path.glob("*-labels.png")
    assert read_labels(labels).shape == (96, 128)
    assert "1 file(s)" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("images", "model", "said"),
    [
        ([], f"{PLAIN}@champoin", r"did you mean 'champion'"),
        ([], "pspnet-resnet18-tinny", rf"no model .*did you mean '{PLAIN}'"),
        (["nowhere.png"], PLAIN, r"nowhere\.png does not exist"),
        (["empty"], PLAIN, r"empty holds no image"),
        (["params.yaml"], PLAIN, r"params\.yaml cannot be read as an image"),
    ],
)
def test_predict_says_what_it_cannot_use(
    in_project: Project, tmp_path: Path, images: list[str], model: str, said: str
):
    (in_project.root / "empty").mkdir(exist_ok=True)
    with pytest.raises(InputError, match=said):
        predict.predict([Path(image) for image in images], model, tmp_path / "out")
    assert not (tmp_path / "out").exists()
