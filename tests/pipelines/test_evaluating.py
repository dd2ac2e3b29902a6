"""What ``evaluate`` leaves besides scores, what it refuses, and a report that goes on without."""

import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from pipelines.project import Project
from pipelines.tracking import open_store
from segcore.errors import InputError
from segcore.files import read_json
from tests.pipelines.tiny_project import PLAIN, SEARCHED, TABLE, main_of, write_table

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]
SERVED = f"{PLAIN}-test"
ROWS: dict[str, Any] = {
    **TABLE["rows"],
    SERVED: {
        **{key: TABLE["rows"][PLAIN][key] for key in ("method", "backbone", "dataset")},
        "weights_of": PLAIN,
        "splits": ["test"],
    },
}


@pytest.fixture
def with_served(finished: Project, tmp_path: Path) -> Project:
    """A copy of the finished project, and a row whose labels only a test server has."""
    shutil.copytree(finished.root, tmp_path / "project")
    project = write_table(tmp_path / "project", {**TABLE, "rows": ROWS})
    for verb in ("tune", "train"):
        main_of(verb)(SERVED, project)
    return project


def test_labels_that_a_server_keeps_are_scored_there(
    with_served: Project, capsys: pytest.CaptureFixture[str]
):
    told = f"row {SERVED}: tiny has no labels of a split 'test'; there is train, val; where only"
    with pytest.raises(InputError, match=re.escape(told)) as caught:
        main_of("evaluate")(SERVED, with_served)
    assert f"python -m pipelines.submit {SERVED} FOLDER-OF-IMAGES" in str(caught.value)
    capsys.readouterr()
    main_of("report")("", with_served)
    board = read_json(with_served.reports / "leaderboard.json")
    assert {entry["row"] for entry in board} == {PLAIN, SEARCHED}
    assert f"not finished: {SERVED}; run: dvc repro evaluate@{SERVED}\n" in capsys.readouterr().out
    assert f"dvc repro evaluate@{SERVED}" in (with_served.reports / "index.html").read_text()


def test_the_run_has_the_scores_and_a_picture_and_the_version_says_how(finished: Project):
    lineage = read_json(finished.run(PLAIN) / "lineage.json")
    store = open_store(finished.root)
    logged = {each.path for each in store.client.list_artifacts(lineage["run_id"])}
    assert {"scores.json", "confusion.png", "overlays"} <= logged
    pictures = [each.path for each in store.client.list_artifacts(lineage["run_id"], "overlays")]
    assert pictures
    assert all(path.endswith(".png") for path in pictures)
    assert lineage["measured"] == "val; whole"
    for name in (PLAIN, "tiny"):
        assert store.version(name, "champion").tags["measured"] == "val; whole"


def test_a_benchmark_says_its_rules_and_where_it_ran(finished: Project):
    for row in (PLAIN, SEARCHED):
        told = read_json(finished.run(row) / "benchmark.json")
        assert (told["warm_up_rounds"], told["rounds"], told["threads"]) == (3, 20, 1)
        rules = told["layout"], told["compiled"], told["precision"]
        assert rules == ("channels_last", False, "float32")
        assert told["device"] == told["lineage"]["hardware"]["processor"] != "cpu"
        assert told["torch"].startswith(told["lineage"]["versions"]["torch"])
