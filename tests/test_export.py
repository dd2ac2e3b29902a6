"""Exported files answer as the network does, on sizes that were not traced; others do not stay."""

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from jaxtyping import config

from pipelines import export as stage
from segcore.errors import InputError
from segcore.export import Difference, FromPixels, export
from segcore.files import read_json
from segcore.inference import predict_labels
from segcore.segfix import MOVES
from segcore.segmenter import Segmenter
from segcore.shards import Manifest
from tests.narrow_networks import build_narrow


@pytest.fixture(scope="module", autouse=True)
def _unchecked() -> Iterator[None]:
    """As outside pytest: the exporter cannot trace through the checks of shapes."""
    config.update("jaxtyping_disable", True)
    yield
    config.update("jaxtyping_disable", False)


@pytest.fixture(scope="module")
def network() -> Segmenter:
    torch.manual_seed(0)
    return build_narrow("fcn").eval()


@pytest.fixture(scope="module")
def images() -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    sizes = (101, 131), (96, 200)
    return [torch.randint(256, (3, *s), generator=generator, dtype=torch.uint8) for s in sizes]


def test_the_exported_graph_is_what_the_project_predicts(
    network: Segmenter, images: list[torch.Tensor]
):
    labels, logits = FromPixels(network).eval()(images[1][None])
    assert torch.equal(labels, predict_labels(network, images[1][None]))
    assert len(labels.unique()) > 1
    assert logits.shape == (1, 5, 12, 25)


@pytest.mark.long
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
@pytest.mark.parametrize("form", ["pt2", "onnx"])
def test_a_file_is_written_that_answers_alike(
    network: Segmenter, images: list[torch.Tensor], tmp_path: Path, form: str
):
    if form == "onnx":
        pytest.importorskip("onnxscript")
    path = tmp_path / f"row.{form}"
    difference = export(network, form, path, images)
    assert difference.logits < 1e-4
    assert difference.labels < 1e-4
    if form == "onnx":
        runtime = pytest.importorskip("onnxruntime")
        labels, _ = runtime.InferenceSession(str(path)).run(
            None, {"images": images[1][None].numpy()}
        )
        labels = torch.from_numpy(labels)
    else:
        labels, _ = torch.export.load(path).module()(images[1][None])
    assert torch.equal(labels, predict_labels(network, images[1][None]))
    assert [each.name for each in tmp_path.iterdir()] == [path.name]


@pytest.mark.long
@pytest.mark.parametrize("change", [1.1, float("nan")])
def test_a_file_that_answers_otherwise_does_not_stay(
    network: Segmenter,
    images: list[torch.Tensor],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    change: float,
):
    """The weights change between the writing of the file and the comparison."""
    from segcore import export as module

    write, open_file = module.FORMS["pt2"]

    def changed(path: Path):
        run = open_file(path)
        return lambda image: (run(image)[0], run(image)[1] * change)

    monkeypatch.setitem(module.FORMS, "pt2", (write, changed))
    with pytest.raises(InputError, match=r"row\.pt2 was not kept: on 2 image\(s\)"):
        export(network, "pt2", tmp_path / "row.pt2", images)
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_be_exported_is_told(network: Segmenter, tmp_path: Path):
    small = torch.zeros(3, 95, 200, dtype=torch.uint8)
    with pytest.raises(InputError, match=r"95x200 pixels is too small .* 96 .* multiples of 8"):
        export(network, "pt2", tmp_path / "row.pt2", [small])
    with pytest.raises(InputError, match="no form 'onx'; did you mean 'onnx'"):
        export(network, "onx", tmp_path / "row.onx", [small])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("method", ["fcn", "segfix"])
def test_a_row_is_compared_on_the_data_that_it_knows(
    network: Segmenter, tiny: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str
):
    """SegFix knows the classes of no data set."""
    classes = MOVES if method == "segfix" else Manifest.read(tiny).classes
    row = SimpleNamespace(method=method, dataset="tiny", splits=("val",))
    model = SimpleNamespace(network=network, config=row, classes=classes)
    exported = list[Any]()

    def written(*given: Any) -> Difference:
        exported.append(given)
        return Difference(0.0, 0.0)

    held = SimpleNamespace(fetch=lambda name, version: Path(name))
    monkeypatch.setattr(stage, "open_store", lambda root: held)
    monkeypatch.setattr(stage, "load_model", lambda folder: model)
    monkeypatch.setattr(stage, "export", written)
    project: Any = SimpleNamespace(root=tmp_path, require_shards=lambda dataset: tiny)
    stage.export_row("row", ["onnx"], 2, tmp_path, project)
    ((_, form, path, images),) = exported
    assert (form, path.name, len(images)) == ("onnx", "row.onnx", 2)
    assert read_json(tmp_path / "row.json")["classes"]["names"] == list(classes.names)
    model.classes = MOVES if method == "fcn" else Manifest.read(tiny).classes
    with pytest.raises(InputError, match="trained on other classes"):
        stage.export_row("row", ["onnx"], 2, tmp_path, project)
