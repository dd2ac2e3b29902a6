"""The registry from the command line: what it lists, compares, promotes and takes back."""

import json
import sys
from pathlib import Path

import pytest

from pipelines import registry
from pipelines.registration import describe, held_version, register
from pipelines.tracking import Store, open_store
from segcore.errors import InputError
from segcore.files import write_json

pytestmark = pytest.mark.long


def write_row(folder: Path, weights: str) -> Path:
    """The files of a trained row, as far as registry and card read them."""
    config = {"key": "row", "method": "fcn", "backbone": "resnet18", "dataset": "orchard"}
    config |= {"steps": 80, "batch_size": 4, "optimizer": "sgd", "learning_rate": 0.01}
    write_json(folder / "config.json", config | {"loss": "cross_entropy", "seed": 3})
    classes = {"names": ["soil", "leaf"], "colours": [[0, 0, 0], [0, 9, 0]], "mirror": [0, 1]}
    write_json(folder / "classes.json", classes)
    (folder / "weights.safetensors").write_text(weights)
    return folder


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """A model ``row`` of three versions that score 0.5, 0.6 (champion) and 0.4."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        store = open_store(tmp_path_factory.mktemp("registry"))
    for number, score in enumerate((0.5, 0.6, 0.4), start=1):
        config = {"learning_rate": 0.1 * number, "steps": 80}
        run_id = store.start("orchard", f"run {number}", config=config)
        store.log_metrics(run_id, {"val.miou": score})
        folder = write_row(store.root / f"runs/{number}", f"weights {number}")
        assert register(store, run_id, "row", folder, score, "d1") == number
        store.promote("row", number, score=score, data_hash="d1", measured="val; whole")
    return store


@pytest.fixture
def said(
    store: Store, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):  # -> what a command prints
    monkeypatch.chdir(store.root)
    monkeypatch.setenv("COLUMNS", "200")

    def run(*words: str) -> str:
        monkeypatch.setattr(sys, "argv", ["registry", *words])
        monkeypatch.setattr(registry, "run_safely", lambda action: action())
        capsys.readouterr()
        registry.main()
        return capsys.readouterr().out

    return run


def champion(store: Store) -> int:
    return store.version("row", "champion").number


def test_list_shows_models_versions_and_every_move(said):
    models = said("list")
    assert [word.strip() for word in models.splitlines()[3].split("│")[1:-1]] == [
        *("row", "3", "3", "2", "0.6000", "row"),
    ]
    versions = said("list", "row")
    assert "candidate" in versions
    assert "score 0.6 is better than 0.5 on the same data" in versions
    assert "champion: 1 -> 2, by " in versions
    with pytest.raises(InputError, match="no model 'rows'; did you mean 'row'"):
        said("list", "rows")


def test_compare_shows_scores_values_that_differ_and_the_gate(said):
    out = said("compare", "row@champion", "row@candidate")
    assert "val.miou" in out
    assert "-0.2000" in out
    assert "learning_rate" in out
    assert "steps" not in out
    assert "row@candidate against row@champion: refused: score 0.4 is not better than 0.6" in out
    with pytest.raises(InputError, match=r"no version '9'; there is 1, 2, 3, candidate, champion"):
        said("compare", "row@1", "row@9")


def test_promote_asks_the_gate_or_takes_a_reason_and_rollback_goes_back(store: Store, said):
    with pytest.raises(InputError, match=r"version 3: refused: score 0.4 .* or say --because"):
        said("promote", "row@3")
    assert champion(store) == 2
    assert "version 3 is champion; new labels" in said(
        "promote", "row@3", "--because", "new labels"
    )
    assert champion(store) == 3
    said("rollback", "row", "--because", "it saw no leaves")
    assert champion(store) == 2
    said("rollback", "row", "--because", "nor did this")
    assert champion(store) == 1
    with pytest.raises(InputError, match="row had no champion before version 1; promote one by"):
        said("rollback", "row", "--because", "once more")
    moves = [(each["from"], each["to"]) for each in store.history("row")]
    assert moves[-3:] == [(2, 3), (3, 2), (2, 1)]
    assert store.history("row")[-1]["why"] == "rolled back from version 2: nor did this"
    # A stage that runs again does not bring back what was withdrawn.
    facts = {"score": 0.6, "data_hash": "d1", "measured": "val; whole"}
    again = store.promote("row", 2, **facts)
    assert again.reason.startswith("refused: it was withdrawn (nor did this); promote by hand")
    assert champion(store) == 1
    assert "withdrawn" in said("list", "row")
    said("promote", "row@2", "--because", "it was the camera")  # as it was
    assert store.promote("row", 2, **facts).promoted


def test_scores_that_were_measured_otherwise_are_no_rivals(store: Store, said):
    facts = {"score": 0.9, "data_hash": "d1", "measured": "test; whole"}
    refused = store.promote("row", 1, **facts)
    told = "refused: measured on test; whole, the champion on val; whole; score the champion so"
    assert refused.reason.startswith(told)
    assert champion(store) == 2
    assert store.promote("row", 1, **facts, because="new split").promoted
    said("promote", "row@2", "--because", "as it was")


def test_two_versions_are_compared_image_by_image(store: Store, said):
    """By hand: 50 and 60 of 100 pixels right, in every image."""
    for number, right in ((1, 50), (2, 60)):
        counts = {"labelled": [100], "predicted": [right], "correct": [right], "classes": [0]}
        images = [{"id": str(image), **counts} for image in range(3)]
        path = store.root / f"{number}/scores.json"
        scores = {"data_hash": "d1", "classes": ["soil"], "looked_at": {"": "whole"}}
        write_json(path, scores | {"splits": {"val": {"per_image": images}}})
        store.log_file(store.version("row", number).run_id, path)
    out = said("compare", "row@1", "row@2")
    assert "val mIoU: +0.1000 (95 %, paired over images: +0.1000 to +0.1000)" in out
    assert "val mIoU" not in said("compare", "row@1", "row@3")  # which has no such file


def test_a_version_without_score_or_files_is_not_promoted(store: Store, said):
    run_id = store.version("row", 1).run_id
    folder = write_row(store.root / "runs/other", "other")
    store.register(run_id, "unscored", folder)
    with pytest.raises(InputError, match="version 1 has no score yet; run: dvc repro evaluate@"):
        said("promote", "unscored@1")
    register(store, run_id, "lost", folder, 0.5, "d1")
    (store.fetch("lost", 1) / "weights.safetensors").unlink()
    with pytest.raises(InputError, match="version 1 of 'lost' has lost its files"):
        said("promote", "lost@1")
    # What DVC holds is registered again.
    assert held_version(store, "lost", folder).number == 2
    assert store.has("lost", 2)
    assert store.version("lost", 2).tags["row"] == "lost"


def test_the_card_is_the_description_and_a_file_and_gets_the_scores(store: Store):
    folder, shards = store.root / "runs/1", store.root / "shards"
    splits = {"train": {"images": 8}, "val": {"images": 2}}
    write_json(shards / "manifest.json", {"licence": "CC BY-NC 4.0", "splits": splits})
    describe(store, "row", 1, folder, str(shards))
    card = store.client.get_model_version("row", "1").description or ""
    assert card.startswith("# row\n")
    assert "- **Licence of the data**: CC BY-NC 4.0\n" in card
    assert "orchard (train 8, val 2 images), sha256 d1" in card
    assert "Not evaluated yet. Best validation mIoU in training: 0.5000." in card
    assert "## Intended use" in card

    val = {"images": 2, "miou": 0.5123, "pixel_accuracy": 0.9, "mean_accuracy": None}
    val |= {"boundary_f": 0.25, "intervals": {"miou": [0.4512, 0.5734]}}
    ways = {"": "whole", "many": "2 scales of 0.5 to 1"}
    many = {"val": val | {"miou": 0.6, "intervals": {}}}
    scores = {"data_hash": "d2", "splits": {"val": val}, "protocols": {"many": many}}
    write_json(folder / "scores.json", scores | {"looked_at": ways})
    describe(store, "row", 1, folder, str(shards))
    card = (store.package("row", 1) / "model_card.md").read_text()
    assert "| val | whole | 2 | 51.23 (45.1 to 57.3) | 90.00 | – | – | 25.00 |\n" in card
    assert "| val | 2 scales of 0.5 to 1 | 2 | 60.00 | 90.00 | – | – | 25.00 |\n" in card
    assert "Scored on other data than it was trained on: sha256 d2." in card
    assert store.client.get_model_version("row", "1").description == card
    assert json.loads((store.fetch("row", 1) / "classes.json").read_text())["names"][0] == "soil"
