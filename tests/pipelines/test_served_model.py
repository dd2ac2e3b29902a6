"""The registry: gate, history, and a model that loads where the project is not."""

import json
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from pipelines.served_model import SERVED_WITH, ServedModel
from pipelines.tracking import Decision, Store, decide, open_store
from segcore.decoding import decode
from segcore.errors import InputError
from segcore.inference import predict_labels, predictor
from segcore.model_files import build_network, save_model
from segcore.row import Run
from segcore.tables import TestTime
from segcore.types import ClassTable

OWN = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())


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


@pytest.mark.long
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

ELSEWHERE = """
import sys
sys.meta_path = [each for each in sys.meta_path if "editable" not in str(each).lower()]
sys.path = [entry for entry in sys.path if entry.rstrip("/") != sys.argv[2]]
import mlflow
import numpy as np
mlflow.set_tracking_uri(sys.argv[1])
model = mlflow.pyfunc.load_model("models:/fcn-resnet18-shapes@candidate")
import segcore
assert "/code/segcore/" in segcore.__file__, segcore.__file__
assert "pipelines" not in sys.modules
images = np.load("images.npy")
answers = model.predict([{"pixels": image} for image in images])
np.save("labels.npy", np.stack([each["label_map"] for each in answers]))
with open("photo.jpg", "rb") as photo, open("labels.png", "wb") as labels:
    labels.write(model.predict([{"image": photo.read()}])[0]["labels"])
try:
    model.predict([{"pixels": images[0].astype(np.float32)}])
except Exception as error:
    print("refused:", str(error)[:40])
from importlib.metadata import packages_distributions
owners = packages_distributions()
loaded = {name.partition(".")[0] for name in sys.modules}
print(*sorted({each.lower() for name in loaded for each in owners.get(name, ())}))
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
    store.register(run_id, "fcn-resnet18-shapes", tmp_path / "model")

    images = np.random.default_rng(0).integers(0, 256, (2, 45, 70, 3), np.uint8)
    (tmp_path / "elsewhere").mkdir()
    np.save(tmp_path / "elsewhere/images.npy", images)
    Image.fromarray(images[1]).save(tmp_path / "elsewhere/photo.jpg")
    root = str(Path(__file__).parents[2])
    command = [sys.executable, "-I", "-c", ELSEWHERE, store.uri, root]
    done = subprocess.run(command, cwd=tmp_path / "elsewhere", capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    refused, distributions = done.stdout.splitlines()
    assert refused.startswith("refused: image 0: pixels must be uint8")
    # All that the project's own dependencies bring into such a process is asked for by name.
    needed = {re.split("[>=<]", each)[0] for each in OWN["project"]["dependencies"]}
    assert needed & set(distributions.split()) <= set(SERVED_WITH)

    with torch.inference_mode():
        pixels = torch.from_numpy(images).permute(0, 3, 1, 2).contiguous()
        expected = torch.cat([predict_labels(network, image[None]) for image in pixels])
    labels = np.load(tmp_path / "elsewhere/labels.npy")
    assert labels.dtype == np.uint8
    assert len(np.unique(labels)) > 1  # equality of two constants would prove little
    np.testing.assert_array_equal(labels, expected.numpy())
    photo = decode((tmp_path / "elsewhere/photo.jpg").read_bytes())
    expected = predict_labels(network, torch.from_numpy(photo).permute(2, 0, 1)[None].contiguous())
    with Image.open(tmp_path / "elsewhere/labels.png") as opened:
        np.testing.assert_array_equal(np.asarray(opened), expected[0].numpy())


def test_a_served_model_looks_at_images_once_as_its_row_says(tmp_path: Path):
    torch.manual_seed(0)
    look = {"resize": 40, "window": (32, 32), "stride": (20, 20)}
    run = Run(
        method="fcn",
        backbone="resnet18",
        backbone_options={"channels": [8, 16, 16, 16]},
        dataset="shapes",
        steps=1,
        batch_size=1,
        crop=(32, 32),
        evaluate_every=1,
        save_every=1,
        test_time=TestTime(scales=(1.0, 2.0), flip=True, **look),
    )
    network = build_network(run, 2).eval()
    with torch.no_grad():  # none of two classes is more likely than the other on the whole
        means = network(torch.randn(1, 3, 64, 48)).logits.mean((0, 2, 3))
        for bias in (each for each in network.parameters() if each.shape == (2,)):
            bias -= means
    classes = ClassTable(("road", "sky"), ((0, 0, 0), (9, 9, 9)), (0, 1))
    save_model(tmp_path, network.state_dict(), "windows", run, classes)
    model = ServedModel()
    model.load_context(SimpleNamespace(artifacts={"model": str(tmp_path)}))
    pixels = np.random.default_rng(3).integers(0, 256, (64, 48, 3), np.uint8)
    (found,) = model.predict(None, pd.DataFrame({"pixels": [pixels]}))
    image = torch.from_numpy(pixels).permute(2, 0, 1)[None].contiguous()
    expected = predictor(TestTime(**look), (0, 1))(network, image)[0]
    np.testing.assert_array_equal(found["label_map"], expected)
    assert not torch.equal(expected, predict_labels(network, image)[0])


TWO_VERSIONS = """
import sys
sys.meta_path = [each for each in sys.meta_path if "editable" not in str(each).lower()]
sys.path = [entry for entry in sys.path if entry.rstrip("/") != sys.argv[2]]
from mlflow import pyfunc
model = pyfunc.load_model(sys.argv[1])
import segcore
from segcore import inference
print(segcore.__file__.startswith(sys.argv[1]), getattr(inference, "EDITED", False))
"""


@pytest.mark.long
def test_two_versions_in_two_processes_run_each_its_own_code(
    store: Store, run_id: str, tmp_path: Path
):
    run = Run(
        method="fcn",
        backbone="resnet18",
        backbone_options={"channels": [4, 4, 4, 4]},
        dataset="shapes",
        steps=1,
        batch_size=1,
        crop=(32, 32),
        evaluate_every=1,
        save_every=1,
    )
    classes = ClassTable(("road", "sky"), ((0, 0, 0), (9, 9, 9)), (0, 1))
    packages = list[Path]()
    for seed in (0, 1):
        torch.manual_seed(seed)
        weights = build_network(run, 2).state_dict()
        save_model(tmp_path / str(seed), weights, "two", run, classes)
        packages.append(store.package("two", store.register(run_id, "two", tmp_path / str(seed))))
    with (packages[1] / "code/segcore/inference.py").open("a") as code:
        code.write("\nEDITED = True\n")  # as if the second version was made after a change
    root = str(Path(__file__).parents[2])
    processes = [
        subprocess.Popen(
            [sys.executable, "-I", "-W", "ignore", "-c", TWO_VERSIONS, str(package), root],
            cwd=tmp_path,
            stdout=subprocess.PIPE,
            text=True,
        )
        for package in packages
    ]
    said = [process.communicate(timeout=200)[0].split() for process in processes]
    assert said == [["True", "False"], ["True", "True"]]
