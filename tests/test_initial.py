"""Where a training starts: another row's weights, but for heads of other classes."""

from pathlib import Path
from typing import Any

import pytest
import torch

from segcore.errors import InputError
from segcore.initial import initial_weights
from segcore.model_files import build_network, save_model
from segcore.row import Run
from segcore.runs import train
from segcore.segfix import MOVES
from segcore.shards import Manifest
from segcore.training import Step
from segcore.types import ClassTable

COCO = ClassTable(("sky", "road", "tree"), ((0, 0, 0),) * 3, (0, 1, 2))
RENAMED = ClassTable(("sky", "road", "wall"), COCO.colours, COCO.mirror)


def row(**values: Any) -> Run:
    plain = {
        "method": "ocrnet",
        "backbone": "mobilenetv2_035",
        "dataset": "tiny",
        "options": {"width": 16, "key_width": 8, "region_width": 8},
        "init": "first",
        "steps": 1,
        "batch_size": 4,
        "crop": (64, 64),
        "evaluate_every": 1,
        "save_every": 1,
        "device": "cpu",
    }
    return Run.model_validate(plain | values)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A model folder of another row, trained for the classes of ``COCO``."""
    torch.manual_seed(7)
    source = row(init=None)
    network = build_network(source, len(COCO))
    for value in network.state_dict().values():
        if value.is_floating_point():
            value.uniform_(0.1, 1)
    save_model(tmp_path, network.state_dict(), "first", source, COCO)
    return tmp_path


HEADS = {
    "regions.1.1.weight",
    "regions.1.1.bias",
    "classify.1.weight",
    "classify.1.bias",
}


def test_the_same_classes_take_over_everything(folder: Path):
    weights = initial_weights(row(), COCO, folder)
    network = build_network(row(), len(COCO))
    network.load_state_dict(weights)
    assert all(value.float().mean() >= 0.1 for name, value in weights.items() if "num" not in name)


@pytest.mark.parametrize("classes", [ClassTable(("a",) * 5, ((0, 0, 0),) * 5, (0,) * 5), RENAMED])
def test_heads_of_other_classes_start_afresh(folder: Path, classes: ClassTable):
    """Also where there are as many classes, but others."""
    weights = initial_weights(row(), classes, folder)
    network = build_network(row(), len(classes))
    assert network.state_dict().keys() - weights.keys() == HEADS
    assert all(network.state_dict()[name].shape == each.shape for name, each in weights.items())


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"options": {"width": 24, "key_width": 8, "region_width": 8}}, "attend.key.0.0.weight"),
        ({"backbone": "resnet18"}, "ocrnet on mobilenetv2_035) do not fit ocrnet on resnet18"),
    ],
)
def test_another_network_s_weights_are_refused(folder: Path, change: dict[str, Any], named: str):
    with pytest.raises(InputError, match="init: the weights of first") as caught:
        initial_weights(row(**change), COCO, folder)
    assert named in str(caught.value)
    assert "give both rows the same network" in str(caught.value)


SEGFIX: dict[str, Any] = {
    "method": "segfix",
    "options": {"width": 8},
    "loss_options": {"boundary_width": 3, "smallest_region": 1},
}


@pytest.mark.parametrize("pyramid", [{}, {"pyramid": "concat"}])
def test_another_method_takes_over_the_backbone_and_that_alone(
    folder: Path, pyramid: dict[str, str]
):
    """SegFix starts from the row that it corrects, whatever stands between body and heads."""
    run = row(**SEGFIX, backbone_options=pyramid)
    weights = initial_weights(run, MOVES, folder)
    network = build_network(run, len(MOVES))
    source = build_network(row(init=None), len(COCO)).backbone.state_dict()
    body = len(source)
    assert body == len(weights) > 100
    assert {name.split(".")[0] for name in weights} == {"backbone"}
    missing, unexpected = network.load_state_dict(weights, strict=False)
    assert not unexpected
    assert {name.split(".")[0] for name in missing} == {"boundary", "direction"}
    kept = network.backbone.state_dict()
    assert all(
        value.float().mean() >= 0.1 for name, value in kept.items() if "num_batches" not in name
    )


def test_another_method_on_another_backbone_is_refused(folder: Path):
    with pytest.raises(InputError, match="give both rows the same backbone") as caught:
        initial_weights(row(**SEGFIX, backbone="resnet18"), MOVES, folder)
    assert "(ocrnet on mobilenetv2_035) do not fit segfix on resnet18" in str(caught.value)


def test_training_starts_from_them(tiny: str, tmp_path: Path):
    """The first loss is that of the source's weights, bit for bit."""
    classes = Manifest.read(tiny).classes
    torch.manual_seed(3)
    network = build_network(row(init=None), len(classes))
    save_model(tmp_path, network.state_dict(), "first", row(init=None), classes)

    def first_loss(run: Run, **start: Any) -> float:
        return next(event.loss for event in train(run, tiny, **start) if isinstance(event, Step))

    started = first_loss(row(), initial=initial_weights(row(), classes, tmp_path))
    assert started == first_loss(row(init=None, seed=0), initial=network.state_dict())
    assert started != first_loss(row(init=None))
