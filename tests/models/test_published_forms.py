"""Every network of the zoo's rows: built at full size, and trained for a step when narrow."""

import json
import math
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch

from pipelines.rows import ZOO
from segcore.gradients import Updates
from segcore.losses import build_criterion
from segcore.model_files import build_network
from segcore.models import list_options
from segcore.optimization import build_optimizer, build_schedule
from segcore.params import Params, read_params
from segcore.row import Run
from segcore.types import Batch

pytestmark = [pytest.mark.long]
CLASSES = 19
COUNTS = {
    # MMSegmentation's, measured; Wide-ResNet-38's and RefineNet's by arithmetic from their papers
    "fcn-resnet50c-cityscapes": 49_497_734,
    "pspnet-resnet50c-cityscapes": 48_975_494,
    "deeplabv3plus-resnet50c-cityscapes": 43_589_878,
    "non_local-resnet50c-cityscapes": 50_023_814,
    "gcnet-resnet50c-cityscapes": 49_630_215,
    "ann-resnet50c-cityscapes": 46_228_614,
    "ocrnet-hrnet_w18_small_v2-cityscapes": 6_378_496,
    "fcn-wide_resnet38_a1-cityscapes-2conv": 124_033_363,
    "fcn-wide_resnet38_a2-cityscapes-2conv": 124_033_363,
    "refinenet-resnet101-cityscapes-test": 118_047_827,
}
NARROW: dict[str, Any] = {
    "width": 16,
    "key_width": 8,
    "value_width": 8,
    "auxiliary_width": 8,
    "region_width": 8,
    "low_level_width": 8,
    "context_width": 8,
    "head_width": 8,
    "layer_width": 4,
    "fine_width": 8,
    "middle_width": 8,
    "coarse_width": 8,
    "spatial_widths": [4, 4, 4, 8],
    "num_codes": 4,
}
NARROW_BACKBONES: dict[str, dict[str, Any]] = {
    "resnet": {"channels": [8, 16, 32, 64]},
    "wide_resnet38": {"width": 4},
    "densenet": {"growth_rate": 4},
}


@cache
def zoo() -> Params:
    return read_params(ZOO)


def forms() -> dict[str, list[str]]:
    """The first row of each distinct network, with all rows that have it; but for SegFix, whose
    loss and classes are its own (tests/test_segfix.py)."""
    first = dict[str, str]()
    rows = dict[str, list[str]]()
    for name in zoo().rows:
        run = zoo().resolve(name)
        if run.method == "segfix":
            continue
        parts = [run.method, run.backbone, run.options, run.backbone_options]
        key = json.dumps([*parts, run.output_stride, run.auxiliary], sort_keys=True)
        rows.setdefault(first.setdefault(key, name), []).append(name)
    return rows


FORMS = forms()


def run_of(name: str) -> Run:
    return zoo().resolve(name).model_copy(update={"pretrained": False})


def narrow(run: Run) -> Run:
    """The same form with few channels; how deep, how dilated and how joined stays."""
    options = {key: NARROW[key] for key in NARROW.keys() & list_options(run.method).keys()}
    backbone = dict(run.backbone_options)
    for family, few in NARROW_BACKBONES.items():
        if run.backbone.startswith(family):
            backbone |= few
    if backbone.get("pyramid") == "joint":
        backbone["pyramid_options"] = {"width": 8}
    return run.model_copy(update={"options": run.options | options, "backbone_options": backbone})


def test_the_zoo_has_as_many_networks_as_were_counted():
    published = [name for name in FORMS if run_of(name).dataset != "camvid"]
    assert (len(published), len(FORMS)) == (49, 51)
    assert sum(map(len, FORMS.values())) == len(zoo().rows) - 1


@pytest.mark.parametrize("name", FORMS)
def test_it_builds_at_full_size(name: str):
    run = run_of(name)
    with torch.device("meta"):
        network = build_network(run, CLASSES)
    same = [COUNTS[row] for row in FORMS[name] if row in COUNTS]
    count = sum(each.numel() for each in network.parameters())
    assert {*same} <= {count}
    strides = network.backbone.strides
    if run.output_stride:
        assert strides[-1] == run.output_stride
    elif pyramid := run.backbone_options.get("pyramid"):
        assert strides[-1] == {"concat": 4, "joint": 8}[pyramid]
    else:
        assert strides[-1] == (16 if run.method == "sdn" else 32)
    has_auxiliary = bool(getattr(network, "auxiliary", None))
    plain_head = run.options.get("classifier_convs", 0) > 0
    assert has_auxiliary == (
        run.auxiliary and "auxiliary" in list_options(run.method) and not plain_head
    )


def test_every_count_was_compared():
    assert set(COUNTS) <= {row for rows in FORMS.values() for row in rows}


@pytest.mark.parametrize("name", FORMS)
def test_it_takes_a_training_step(name: str):
    """By the row's own loss, optimizer and schedule, on two images of odd size: all of it moves."""
    torch.manual_seed(0)
    run = narrow(run_of(name))
    network = build_network(run, CLASSES).train()
    before = {key: value.clone() for key, value in network.named_parameters()}
    generator = np.random.default_rng(1)
    images = torch.from_numpy(generator.integers(0, 256, (2, 3, 65, 97), np.uint8))
    labels = torch.from_numpy(generator.integers(0, CLASSES, (2, 65, 97), np.uint8))
    labels[:, :4] = 255
    assert run.class_weights is None or len(run.class_weights) == CLASSES
    criterion = build_criterion(
        run.loss,
        auxiliary_weight=run.auxiliary_weight,
        presence_weight=run.presence_weight,
        class_weights=None if run.class_weights is None else list(map(float, run.class_weights)),
        **run.loss_options,
    )
    optimizer = build_optimizer(
        run.optimizer,
        network,
        learning_rate=0.1,  # enough for float32 to show that a weight has moved
        momentum=run.momentum,
        weight_decay=run.weight_decay,
        head_multiplier=run.head_multiplier,
    )
    build_schedule(run.schedule, optimizer, steps=run.steps, power=run.power)
    loss, _ = Updates(network, criterion, optimizer).take(Batch(images, labels, ("a", "b")), 1)
    # Untrained scores are near zero: each head pays about the logarithm of the class count.
    assert 0.5 * math.log(CLASSES) < loss < 12 * math.log(CLASSES)
    after = dict(network.named_parameters())
    assert all(value.isfinite().all() for value in after.values())
    still = [key for key, value in after.items() if torch.equal(value, before[key])]
    # Only what starts at zero and waits for another gate that starts at zero may not move.
    assert [key for key in still if before[key].abs().sum() > 0] == []
    with torch.no_grad():
        logits = network.eval()(images.float() / 255).logits
    assert logits.shape[:2] == (2, CLASSES)
    assert logits.isfinite().all()
