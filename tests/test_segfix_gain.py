"""SegFix on ``shapes``: a small network, trained here, corrects the labels of another one."""

from pathlib import Path
from typing import Any

import pytest

from segcore.datasets import build_dataset
from segcore.inference import predict_labels
from segcore.initial import initial_weights
from segcore.model_files import load_model, save_model
from segcore.preparation import prepare
from segcore.row import Run
from segcore.runs import train
from segcore.segfix import MOVES, Gain, refine
from segcore.segmenter import Segmenter
from segcore.shards import Manifest, ShardReader
from segcore.tables import DatasetTable
from segcore.training import Saved
from segcore.types import ClassTable

NARROW = {"channels": [32, 64, 128, 256]}
RECIPE: dict[str, Any] = {
    "backbone": "resnet18",
    "dataset": "shapes",
    "output_stride": 8,
    "batch_size": 8,
    "crop": (96, 96),
    "scale": (0.75, 1.5),
    "optimizer": "adamw",
    "learning_rate": 0.002,
    "weight_decay": 0.01,
    "warmup_steps": 20,
    "device": "cpu",
}
FCN: dict[str, Any] = {
    "method": "fcn",
    "backbone_options": NARROW,
    "options": {"width": 64, "num_convs": 1, "concat_input": False},
    "steps": 320,
}
SEGFIX: dict[str, Any] = {
    "method": "segfix",
    "init": "fcn",
    "backbone_options": {**NARROW, "pyramid": "concat"},
    "options": {"width": 128},
    "max_class_share": 1.0,
    "loss_options": {"boundary_width": 4, "smallest_region": 10},
    "steps": 500,
}


def trained(shards: str, classes: ClassTable, values: dict[str, Any], runs: Path) -> Segmenter:
    """The network of a row of ``runs``, after its training."""
    at_the_end = {"evaluate_every": values["steps"], "save_every": values["steps"]}
    run = Run(**(RECIPE | at_the_end | values))
    initial = initial_weights(run, classes, runs / run.init) if run.init else None
    *_, last = (event for event in train(run, shards, None, initial) if isinstance(event, Saved))
    assert last.checkpoint.best_weights is not None
    folder = runs / run.method
    save_model(folder, last.checkpoint.best_weights, run.method, run, classes)
    return load_model(folder).network


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_scores_rise_by_more_than_chance(tmp_path):
    """The backbone of SegFix starts from FCN's (``init``), as a published one does from ImageNet's:
    from random weights, some hundred steps do not teach it to see objects."""
    dataset, shards = build_dataset("shapes", {}), tmp_path / "shards"
    dataset.acquire(tmp_path / "raw", tmp_path / "drop")
    table = DatasetTable()
    list(prepare("shapes", dataset, tmp_path / "raw", shards, tmp_path / "work", table))
    classes = Manifest.read(str(shards)).classes
    fcn = trained(str(shards), classes, FCN, tmp_path / "runs")
    segfix = trained(str(shards), MOVES, SEGFIX, tmp_path / "runs")
    reader, gain = ShardReader(str(shards), "val"), Gain(len(classes))
    for index in range(len(reader)):
        name, image, labels = reader[index]
        before, moves = (predict_labels(network, image[None]) for network in (fcn, segfix))
        gain.add(name, labels, before[0], refine(before, moves)[0])
    figures = gain.as_dict()["figures"]
    for figure in ("miou", "boundary_f", "boundary_iou", "pixel_accuracy"):
        assert figures[figure]["interval"][0] > 0
    assert figures["miou_within_3"]["gain"] > figures["miou"]["gain"]
