"""The registry: gate, history, and a model that loads where the project is not."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from pipelines.served_model import ServedModel
from pipelines.tracking import Decision, Store, decide, open_store
from segcore.errors import InputError
from segcore.inference import predict_labels
from segcore.row import Run
from segcore.runs import build_network, save_model
from segcore.types import ClassTable


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        return open_store(tmp_path_factory.mktemp("registry"))


@pytest.fixture(scope="module")
def run_id(store: Store) -> str:
    return store.start("shapes", "row", config={"method": "fcn"})


@pytest.fixture(autouse=True)
def _nothing_lands_in_the_working_folder(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> Iterator[None]:
    """MLflow makes a second store there when one of its calls does not know ours."""
    here = tmp_path_factory.mktemp("here")
    monkeypatch.chdir(here)
    yield
    assert list(here.iterdir()) == []


def write_model(folder: Path, content: str) -> Path:
    """Files that the registry can hold; no network can be made of them."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "weights.safetensors").write_bytes(content.encode())
    (folder / "config.json").write_text(json.dumps({"method": content}))
    (folder / "classes.json").write_text("[]")
    return folder


# --- the gate ------------------------------------------------------------------------------------


def facts(score: float, data_hash: str = "d1") -> dict[str, str]:
    return {"score": repr(score), "data_hash": data_hash}


@pytest.mark.parametrize(
    ("new", "champion", "promoted"),
    [
        (facts(0.1), None, True),
        (facts(0.5), facts(0.4), True),
        (facts(0.4), facts(0.4), False),
        (facts(0.3), facts(0.4), False),
        (facts(0.9, "d2"), facts(0.4), False),
        (facts(float("nan")), None, False),
        (facts(0.30000000000000004), facts(0.3), True),
    ],
)
def test_the_gate_lets_the_first_and_the_better_on_the_same_data_pass(
    new: dict[str, str], champion: dict[str, str] | None, promoted: bool
):
    assert decide(new, champion, None).promoted is promoted


def test_a_person_may_promote_on_other_data_and_her_reason_is_kept():
    refused = decide(facts(0.1, "d2"), facts(0.4), None)
    assert "d2" in refused.reason
    assert "d1" in refused.reason
    assert "by hand" in refused.reason
    asked = decide(facts(0.1, "d2"), facts(0.4), "new labels")
    assert asked == Decision(True, "new labels")


# --- the registry --------------------------------------------------------------------------------


def test_versions_aliases_gate_and_history(store: Store, run_id: str, tmp_path: Path):
    one, two = write_model(tmp_path / "1", "one"), write_model(tmp_path / "2", "two")
    assert store.register(run_id, "row", one, tags={"data_hash": "d1"}, metrics={"miou": 0.4}) == 1
    assert store.aliases("row", 1) == ["candidate"]
    assert store.promote("row", 1, score=0.4, data_hash="d1").promoted
    assert store.aliases("row", 1) == ["candidate", "champion"]

    assert store.register(run_id, "row", two) == 2
    assert store.aliases("row", 1) == ["champion"]
    assert not store.promote("row", 2, score=0.3, data_hash="d1").promoted
    assert not store.promote("row", 2, score=0.9, data_hash="d2").promoted
    assert store.aliases("row", 2) == ["candidate"]
    assert store.promote("row", 2, score=0.5, data_hash="d1").promoted
    assert store.aliases("row", 1) == []
    # Evaluated again: it is no rival of itself, and moves nothing.
    assert store.promote("row", 2, score=0.45, data_hash="d1").promoted

    versions = store.versions("row")
    assert [(each.number, each.aliases) for each in versions] == [
        (1, []),
        (2, ["candidate", "champion"]),
    ]
    assert versions[0].tags["miou"] == "0.4"
    assert versions[1].tags["score"] == "0.45"
    assert versions[0].run_id == run_id
    moves = [(move["alias"], move["from"], move["to"]) for move in store.history("row")]
    assert moves == [
        ("candidate", None, 1),
        ("champion", None, 1),
        ("candidate", 1, 2),
        ("champion", 1, 2),
    ]
    last = store.history("row")[-1]
    assert last["who"]
    assert "0.5 is better than 0.4" in last["why"]
    assert json.loads(versions[1].tags["moved.champion"]) == last

    for version, folder in ((1, one), ("2", two), ("champion", two)):
        held = store.fetch("row", version)
        for file in ("weights.safetensors", "config.json", "classes.json"):
            assert (held / file).read_bytes() == (folder / file).read_bytes()


def test_the_same_files_are_the_same_version_until_they_are_lost(
    store: Store, run_id: str, tmp_path: Path
):
    folder = write_model(tmp_path, "same")
    assert store.register(run_id, "twice", folder) == store.register(run_id, "twice", folder) == 1
    assert store.has("twice", 1)
    assert store.has("twice", "candidate")
    assert not store.has("twice", 2)
    assert not store.has("nobody", 1)
    (store.fetch("twice", 1) / "weights.safetensors").unlink()
    assert not store.has("twice", 1)
    with pytest.raises(InputError, match="version 1 of 'twice' has lost its files; register it"):
        store.fetch("twice", 1)
    assert store.register(run_id, "twice", folder) == 2
    assert store.aliases("twice", 2) == ["candidate"]


def test_what_is_missing_is_named_with_what_there_is(store: Store, run_id: str, tmp_path: Path):
    store.register(run_id, "fcn-shapes", write_model(tmp_path, "x"))
    with pytest.raises(InputError, match="no model 'fcn-shape'; did you mean 'fcn-shapes'"):
        store.fetch("fcn-shape", 1)
    with pytest.raises(InputError, match=r"'fcn-shapes' has no version 'champion'.* 1, candidate"):
        store.fetch("fcn-shapes", "champion")
    (tmp_path / "classes.json").unlink()
    with pytest.raises(InputError, match=r"lacks classes\.json"):
        store.register(run_id, "fcn-shapes", tmp_path)
    assert store.versions("nobody") == []
    assert store.history("nobody") == []


def test_the_artifact_holds_the_code_and_no_compiled_file_or_pickle(
    store: Store, run_id: str, tmp_path: Path
):
    store.register(run_id, "code", write_model(tmp_path, "x"))
    root = store.fetch("code", 1).parents[1]
    names = {path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file()}
    assert {"served_model.py", "code/segcore/types.py", "code/segcore/py.typed"} <= names
    assert not [name for name in names if name.endswith((".pyc", ".pkl"))]
    required = (root / "requirements.txt").read_text().splitlines()
    assert f"torch=={torch.__version__.split('+')[0]}" in required


# --- the model -----------------------------------------------------------------------------------


class Brightest(nn.Module):
    """Class = brightest channel, as one-by-one convolution: labels one can see from the pixels."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, images: torch.Tensor) -> SimpleNamespace:
        return SimpleNamespace(logits=images * self.scale)


@pytest.mark.parametrize("wrong", [np.zeros((1, 4, 4, 3)), np.zeros((4, 4, 3), np.uint8)])
def test_another_kind_of_array_is_refused(wrong: np.ndarray):
    with pytest.raises(ValueError, match=r"uint8 \[n, h, w, 3\]"):
        ServedModel().predict(None, wrong)


def test_labels_come_back_in_the_size_and_order_of_the_images():
    model = ServedModel()
    model.network = Brightest()
    images = np.zeros((2, 3, 5, 3), np.uint8)
    images[0, ..., 2] = 255
    images[1, ..., 1] = 255
    images[1, 0, 0] = (255, 0, 0)
    labels = model.predict(None, images)
    expected = np.stack([np.full((3, 5), 2), np.full((3, 5), 1)]).astype(np.uint8)
    expected[1, 0, 0] = 0
    np.testing.assert_array_equal(labels, expected)
    assert labels.dtype == np.uint8
    assert model.predict(None, images[:0]).shape == (0, 3, 5)


ELSEWHERE = """
import sys
sys.meta_path = [each for each in sys.meta_path if "editable" not in str(each).lower()]
sys.path = [entry for entry in sys.path if entry.rstrip("/") != sys.argv[2]]
import numpy as np
from mlflow import pyfunc
model = pyfunc.load_model(sys.argv[1])
import segcore
assert segcore.__file__.startswith(sys.argv[1]), segcore.__file__
assert "pipelines" not in sys.modules
images = np.load("images.npy")
np.save("labels.npy", model.predict(images))
try:
    model.predict(images.astype(np.float32))
except Exception as error:
    print("refused:", str(error)[:40])
"""


@pytest.mark.long
def test_a_registered_model_loads_without_the_project_and_gives_the_same_labels(
    store: Store, run_id: str, tmp_path: Path
):
    torch.manual_seed(0)
    classes = ClassTable(("road", "pole", "sky"), ((0, 0, 0), (9, 9, 9), (5, 5, 5)), (0, 1, 2))
    table = {"method": "fcn", "backbone": "resnet18", "dataset": "shapes", "steps": 1}
    table |= {"batch_size": 1, "crop": (32, 32), "evaluate_every": 1, "save_every": 1}
    run = Run(**table)
    network = build_network(run, 3).eval()
    save_model(tmp_path / "model", network.state_dict(), "fcn-resnet18-shapes", run, classes)
    number = store.register(run_id, "fcn-resnet18-shapes", tmp_path / "model")
    artifact = store.fetch("fcn-resnet18-shapes", number).parents[1]

    images = np.random.default_rng(0).integers(0, 256, (2, 45, 70, 3), np.uint8)
    (tmp_path / "elsewhere").mkdir()
    np.save(tmp_path / "elsewhere/images.npy", images)
    root = str(Path(__file__).parents[2])
    command = [sys.executable, "-I", "-c", ELSEWHERE, str(artifact), root]
    done = subprocess.run(command, cwd=tmp_path / "elsewhere", capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("refused:")

    with torch.inference_mode():
        pixels = torch.from_numpy(images).permute(0, 3, 1, 2).contiguous()
        expected = torch.cat([predict_labels(network, image[None]) for image in pixels])
    labels = np.load(tmp_path / "elsewhere/labels.npy")
    assert labels.dtype == np.uint8
    assert len(np.unique(labels)) > 1  # equality of two constants would prove little
    np.testing.assert_array_equal(labels, expected.numpy())
