"""Rows that stand on another one: its weights under another protocol, or as a start."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from sklearn.metrics import jaccard_score

from pipelines.project import Project
from pipelines.tracking import open_store
from segcore.errors import InputError
from segcore.files import read_json, sha256_of
from segcore.inference import predict_labels_over_views
from segcore.model_files import load_model
from segcore.shards import ShardReader
from tests.pipelines.tiny_project import PLAIN, SEARCHED, TABLE, main_of, write_table

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]
VIEWS, STARTED = f"{SEARCHED}-views", f"{PLAIN}-started"
NETWORK = ("method", "backbone", "dataset")
ROWS: dict[str, Any] = {
    **TABLE["rows"],
    VIEWS: {
        **{key: TABLE["rows"][SEARCHED][key] for key in NETWORK},
        "weights_of": SEARCHED,
        "splits": ["val"],
        "test_time": {"scales": [0.75, 1.0], "flip": True},
        "protocols": {"slide": {"window": [32, 40], "stride": [20, 30]}, "whole": {}},
        "published": {"source": "a list", "paper": "arXiv:1411.4038", "metrics": ["miou"]},
    },
    STARTED: {
        **TABLE["rows"][PLAIN],
        "init": PLAIN,
        "workers": 1,
        "steps": 2,
        "learning_rate": 1e-9,
        "weight_decay": 0.0,
    },
}


def with_links(root: Path) -> Project:
    return write_table(root, {**TABLE, "rows": ROWS})


@pytest.fixture(scope="module")
def linked(finished: Project, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """The finished project with two rows more. Never write to it."""
    root = tmp_path_factory.mktemp("linked") / "project"
    shutil.copytree(finished.root, root)
    project = with_links(root)
    for row in (VIEWS, STARTED):
        for verb in ("tune", "train", "evaluate", "benchmark"):
            main_of(verb)(row, project)
    main_of("report")("", project)
    return project


def test_a_row_on_anothers_weights_has_them_and_no_training(finished: Project, linked: Project):
    ours, theirs = linked.run(VIEWS), finished.run(SEARCHED)
    for name in ("weights.safetensors", "classes.json", "metrics.jsonl"):
        assert sha256_of(ours / name) == sha256_of(theirs / name)
    config, trained = read_json(ours / "config.json"), read_json(theirs / "config.json")
    assert config["test_time"] == trained["test_time"]  # how it is scored is no part of a recipe
    looked_at = read_json(ours / "scores.json")["looked_at"]
    assert looked_at[""] == "2 scales of 0.75 to 1 + flip"
    assert set(looked_at) == {"", "slide", "whole"}
    assert config["options"] == trained["options"]  # what the other's search found, as well
    assert read_json(ours / "search.json")["best"] == read_json(theirs / "search.json")["best"]
    assert read_json(ours / "registered.json")["origin"] == {
        "row": SEARCHED,
        "weights": sha256_of(theirs / "weights.safetensors"),
    }
    assert (
        read_json(ours / "benchmark.json")["parameters"]
        == (read_json(theirs / "benchmark.json")["parameters"])
    )
    (version,) = open_store(linked.root).versions(VIEWS)
    assert version.number == 1


def test_its_scores_are_those_of_its_own_protocol(linked: Project):
    found = read_json(linked.run(VIEWS) / "scores.json")["splits"]
    assert list(found) == ["val"]
    model = load_model(linked.run(SEARCHED))
    how = {"scales": [0.75, 1.0], "flip": True, "mirror": model.classes.mirror}
    reader = ShardReader(str(linked.shards("tiny")), "val")
    samples = [reader[index] for index in range(len(reader))]
    labels = np.concatenate([sample.labels.numpy().ravel() for sample in samples])
    predicted = [
        predict_labels_over_views(model.network, sample.image[None], **how).numpy().ravel()
        for sample in samples
    ]
    counted = labels != 255
    labels, predicted = labels[counted], np.concatenate(predicted)[counted]
    seen = sorted({*labels.tolist(), *predicted.tolist()})
    iou = jaccard_score(labels, predicted, labels=seen, average=None, zero_division=0)
    assert found["val"]["miou"] == pytest.approx(iou.mean(), abs=1e-12)
    assert (
        found["val"]["confusion"]
        != (read_json(linked.run(SEARCHED) / "scores.json")["splits"]["val"]["confusion"])
    )


def test_its_other_protocols_stand_beside(linked: Project):
    scores = read_json(linked.run(VIEWS) / "scores.json")
    plain = read_json(linked.run(SEARCHED) / "scores.json")
    assert {name: list(splits) for name, splits in scores["protocols"].items()} == {
        "slide": ["val"],
        "whole": ["val"],
    }
    assert scores["protocols"]["whole"]["val"] == plain["splits"]["val"]
    sliding = scores["protocols"]["slide"]["val"]["confusion"]
    assert sliding != scores["splits"]["val"]["confusion"]
    assert np.sum(sliding) == np.sum(scores["splits"]["val"]["confusion"])


def test_a_row_with_init_starts_from_the_others_weights(linked: Project):
    ours, theirs = (load_file(linked.run(row) / "weights.safetensors") for row in (STARTED, PLAIN))
    assert ours.keys() == theirs.keys()
    for name, value in ours.items():
        if "running" not in name and "num_batches" not in name:  # at that rate nothing else moves
            torch.testing.assert_close(value, theirs[name], rtol=0, atol=1e-6)
    origin = read_json(linked.run(STARTED) / "registered.json")["origin"]
    assert origin["row"] == PLAIN
    events = (linked.run(STARTED) / "metrics.jsonl").read_text().splitlines()
    assert [event["step"] for event in map(json.loads, events) if event["event"] == "step"] == [
        1,
        2,
    ]


def test_the_leaderboard_has_them_all(linked: Project):
    board = read_json(linked.reports / "leaderboard.json")
    assert {entry["row"] for entry in board} == set(ROWS)


def test_a_row_that_was_scored_otherwise_than_the_table_says_is_named(
    linked: Project, copy_of: Callable[..., Project], capsys: pytest.CaptureFixture[str]
):
    copy = copy_of(linked, "data/shards", "runs", "mlflow.db")
    rows = {key: dict(row) for key, row in ROWS.items()}
    del rows[VIEWS]["test_time"]  # taken over from the row of the weights, then
    rows[SEARCHED]["test_time"] = {"scales": [1.0, 1.5]}
    main_of("report")("", write_table(copy.root, {**TABLE, "rows": rows}))
    told = capsys.readouterr().out
    for row in (SEARCHED, VIEWS):
        assert f"not finished: {row}; run: dvc repro --force --single-item evaluate@{row}" in told
    board = read_json(copy.root / "reports/leaderboard.json")
    assert {entry["row"] for entry in board} == {PLAIN, STARTED}


def test_weights_taken_over_again_are_the_same_run(
    linked: Project, copy_of: Callable[..., Project]
):
    copy = copy_of(linked, "data/shards", "runs", "mlflow.db")
    before = read_json(copy.run(VIEWS) / "registered.json")
    main_of("train")(VIEWS, copy)
    assert read_json(copy.run(VIEWS) / "registered.json") == before
    client = open_store(copy.root).client
    (place,) = [each for each in client.search_experiments() if each.name == "tiny"]
    runs = client.search_runs([place.experiment_id], "tags.kind = 'weights_of'")
    assert [(run.info.run_id, run.info.status) for run in runs] == [(before["run_id"], "FINISHED")]


def test_a_row_whose_start_is_not_trained_is_told(prepared: Project, tmp_path: Path):
    shutil.copytree(prepared.root / "data", tmp_path / "data")
    project = with_links(tmp_path)
    main_of("tune")(STARTED, project)
    with pytest.raises(InputError, match=rf"not trained yet; run: dvc repro train@{PLAIN}"):
        main_of("train")(STARTED, project)
    with pytest.raises(InputError, match=rf"{SEARCHED}/search\.json is missing"):
        main_of("tune")(VIEWS, project)


@pytest.mark.parametrize("row", [VIEWS, STARTED])
def test_weights_of_a_former_training_are_refused(
    linked: Project, copy_of: Callable[..., Project], row: str
):
    copy = copy_of(linked, "data/shards", "runs", "mlflow.db")
    other = copy.run(ROWS[row].get("weights_of") or ROWS[row]["init"]) / "registered.json"
    facts = read_json(other)
    facts["files"]["weights.safetensors"] = "0" * 64
    other.write_text(json.dumps(facts))
    remedy = rf"run: dvc repro --force --single-item train@{row}"
    with pytest.raises(InputError, match=remedy):
        main_of("evaluate")(row, copy)
    with pytest.raises(InputError, match=r"was made from weights that .* no longer has"):
        main_of("report")("", copy)
