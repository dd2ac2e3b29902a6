"""Plans against sums by hand, and against what training truly takes."""

import os
import subprocess
import sys
from typing import Any

import pytest
import torch

from segcore import planning
from segcore.losses import list_losses
from segcore.memory import peak_memory
from segcore.model_files import build_network
from segcore.models import list_methods, list_options, method_class
from segcore.planning import LiveBytes, expected_memory, images_at_once, most_images
from segcore.row import Run
from tests.narrow_networks import CLASSES, NARROW


def row(name: str = "fcn", **changes: Any) -> Run:
    narrow = {key: each for key, each in NARROW.items() if key in list_options(name)}
    values = {
        "method": name,
        "backbone": "resnet18",
        "dataset": "shapes",
        "backbone_options": {"layers": [1, 1, 1, 1], "channels": [8, 16, 24, 32]},
        "output_stride": 8 if set(method_class(name).needed_strides) <= {4, 8} else None,
        "options": narrow,
        "steps": 10,
        "batch_size": 8,
        "crop": (64, 96),
        "evaluate_every": 5,
        "save_every": 5,
    }
    return Run.model_validate(values | changes)


def memory(run: Run, images: int = 8, workers: int = 1, device: str = "cpu") -> int:
    return expected_memory(run, CLASSES, images, workers, device)


def test_live_bytes_are_those_of_tensors_that_exist():
    with LiveBytes() as live:
        first = torch.ones(1000)
        view = first.view(10, 100)
        assert live.now == 4000  # a view holds nothing of its own
        second = first + 1
        del first
        assert live.now == 8000  # the view still holds the first
        del view
        assert (live.now, live.peak) == (4000, 8000)
        second.add_(1)
        third = second.double()
        assert (live.now, live.peak) == (12_000, 12_000)
    assert third.numel() == 1000


def test_a_backward_pass_is_counted_by_hand():
    """y = exp(x) keeps y; its gradient is one more, and x's another."""
    weight = torch.zeros(1000, requires_grad=True)
    with LiveBytes() as live:
        y = weight.exp()
        assert live.now == 4000
        y.backward(torch.ones(1000))
        del y
    assert live.now == 4000  # the gradient of the weight
    assert live.peak == 12_000  # y, the gradient given, the one made


def test_optimizers_and_workers_add_copies_of_the_weights():
    network = build_network(row(), CLASSES)
    buffers = [*network.parameters(), *network.buffers()]
    weights = sum(each.numel() * each.element_size() for each in buffers)
    plain = memory(row(momentum=0.0))
    assert memory(row()) == plain + weights
    assert memory(row(optimizer="adamw")) == plain + 2 * weights
    assert memory(row(momentum=0.0, ema_decay=0.99)) == plain + weights
    # two workers share sixteen images: eight each, as above, and a copy of the gradients
    assert memory(row(batch_size=16), workers=2) == plain + 2 * weights


def test_memory_grows_by_the_same_with_every_image():
    small, middle, large = (memory(row(batch_size=n), n) for n in (4, 8, 12))
    assert small < middle
    assert large - middle == pytest.approx(middle - small, rel=1e-3)


def test_parts_of_a_batch_take_less_than_all_of_it_and_more_than_one_alone():
    whole, part = memory(row()), memory(row(), images=4)
    alone = memory(row(batch_size=4), images=4)
    gradients = sum(4 * each.numel() for each in build_network(row(), CLASSES).parameters())
    assert alone < part <= alone + gradients
    assert part < whole


def test_half_the_precision_takes_less():
    assert memory(row(precision="bfloat16")) < 0.8 * memory(row())
    assert memory(row(), device="cuda") == memory(row(precision="bfloat16"))


def test_images_at_once_are_a_share_or_a_part_of_it():
    assert images_at_once(row(), 1) == 8
    assert images_at_once(row(), 3) == 3
    assert images_at_once(row(micro_batch=2), 2) == 2
    assert images_at_once(row(micro_batch=6), 2) == 4


@pytest.mark.long
@pytest.mark.parametrize("images", [3, 8, 37])
def test_the_most_images_fit_and_one_more_does_not(images: int):
    limit = memory(row(batch_size=100), images)
    assert most_images(row(), CLASSES, 1, "cpu", limit) == images
    assert most_images(row(), CLASSES, 1, "cpu", limit - 1) == images - 1


def test_where_not_even_two_images_fit_there_is_none():
    assert most_images(row(), CLASSES, 1, "cpu", 1000) == 0


@pytest.mark.long
def test_planning_takes_no_memory_of_what_it_plans():
    run = row(batch_size=64, crop=(2048, 4096))
    planned = memory(run, 64)
    assert planned > 20e9
    assert peak_memory(lambda: memory(run, 64), torch.device("cpu")) < 200e6


@pytest.mark.parametrize("loss", list_losses())
def test_every_loss_is_planned(loss: str):
    """At stride 8 the losses' own arrays are as large as the labels: none is free."""
    lost = planning._loss_bytes(row(loss=loss), CLASSES, [((2, CLASSES, 8, 12), torch.float32)])
    scores = 2 * 64 * 96 * CLASSES * 4
    assert scores < lost < 20 * scores


@pytest.mark.long
@pytest.mark.parametrize("name", list_methods())
def test_every_method_is_planned(name: str):
    assert memory(row(name), 4) > 1.2 * memory(row(name), 2) > 0


REAL = """
import sys, timm, torch  # timm here: its modules are not what a training takes
from segcore.memory import peak_memory
from segcore.planning import expected_memory
from segcore.row import Run
from segcore.model_files import build_network
from segcore.runs import loss_of, optimization_of
from segcore.training import prepare_model
from segcore.types import Batch
from segcore.gradients import Updates

run = Run.model_validate_json(sys.argv[1])

def training():
    network = prepare_model(build_network(run, 19), torch.device("cpu"))
    optimizer, schedule = optimization_of(run, network)
    images = torch.zeros(run.batch_size, 3, *run.crop, dtype=torch.uint8)
    labels = torch.arange(images[:, 0].numel()).remainder(19).view(images[:, 0].shape)
    batch = Batch(images, labels.to(torch.uint8), ("",) * run.batch_size)
    criterion = loss_of(run, [1] * 19)
    updates = Updates(network, criterion, optimizer, micro_batch=run.micro_batch)
    for number in (1, 2):
        updates.take(batch, number)

print(peak_memory(training, torch.device("cpu")), expected_memory(run, 19, %d, 1, "cpu"))
"""


@pytest.mark.long
@pytest.mark.parametrize(
    ("name", "changes", "images"),
    [
        ("pspnet", {"optimizer": "adamw", "micro_batch": 2}, 2),
        pytest.param("ocrnet", {"loss": "ohem"}, 4, marks=pytest.mark.slow),
        pytest.param("danet", {"loss": "lovasz"}, 4, marks=pytest.mark.slow),
    ],
)
def test_a_plan_is_what_training_takes(name: str, changes: dict[str, Any], images: int):
    """The whole of it: network, two steps with all their states. glibc, which keeps what is freed
    in reserve, is told to keep little."""
    values = {"backbone_options": {}, "options": {}, "batch_size": 4, "crop": (192, 256)}
    run = row(name, **(values | changes))
    frugal = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
    told = subprocess.run(
        [sys.executable, "-c", REAL % images, run.model_dump_json()],
        env=os.environ | frugal,
        capture_output=True,
        text=True,
        check=True,
    )
    measured, expected = map(int, told.stdout.split())
    assert 0.7 < expected / measured < 1.3
