"""One update of the weights: clipped, scaled, or skipped without a trace."""

import copy
import math

import pytest
import torch
from torch import nn

from segcore.distributed import rank
from segcore.errors import InputError
from segcore.gradients import Updates
from segcore.optimization import build_optimizer
from segcore.training import Evaluated, Saved, Step, prepare_model
from segcore.types import Batch, Prediction
from tests.small_training import Small, batches, cross_entropy, events_of, losses_of, plan
from tests.workers import run_workers


def length_of(tensors) -> float:
    return math.sqrt(sum(float(value) ** 2 for each in tensors for value in each.flatten()))


def moved_by(clip_norm: float | None) -> list[torch.Tensor]:
    """How far one step of plain SGD moves every parameter, over the learning rate."""
    network = Small().double()
    before = copy.deepcopy(list(network.parameters()))
    optimizer = build_optimizer("sgd", network, learning_rate=0.5, momentum=0.0, weight_decay=0.0)
    (batch,) = batches(1)
    Updates(network, cross_entropy, optimizer, clip_norm=clip_norm).take(batch, 1)
    return [(a - b).detach() / 0.5 for a, b in zip(before, network.parameters(), strict=True)]


def test_a_long_gradient_is_scaled_down_to_the_limit_and_a_short_one_left_alone():
    whole = moved_by(None)
    length = length_of(whole)
    assert length > 0.1
    clipped = moved_by(length / 4)
    assert length_of(clipped) == pytest.approx(length / 4, rel=1e-5)
    torch.testing.assert_close([each * 4 for each in clipped], whole, rtol=1e-5, atol=1e-12)
    torch.testing.assert_close(moved_by(1.01 * length), whole, rtol=0, atol=0)


# --- float16 -------------------------------------------------------------------------------------


def test_float16_finds_its_scale_and_then_trains_as_float32():
    exact, low = Small(norm=False), Small(norm=False)
    expected = losses_of(exact, plan(8))
    events = list(events_of(low, plan(8, precision=torch.float16)))
    losses = [event.loss for event in events if isinstance(event, Step)]
    assert losses != expected
    assert losses == pytest.approx(expected, rel=0.02)
    assert not any(event.skipped for event in events if isinstance(event, Step))
    assert {value.dtype for value in low.parameters()} == {torch.float32}
    (saved,) = (event for event in events if isinstance(event, Saved))
    scaler = saved.checkpoint.state["updates"]["scaler"]
    assert (scaler["scale"], scaler["_growth_tracker"]) == (2.0**16, 8)


class Steep(Small):
    """A gradient 2^12 times as long as the scores' change: too long for the first scale."""

    def forward(self, images):
        logits = super().forward(images).logits
        return Prediction(logits + 2.0**12 * (logits - logits.detach()))


def test_overflows_while_float16_looks_for_its_scale_are_no_faults():
    network, skipped, scales = Steep(norm=False), [], []
    before = copy.deepcopy(dict(network.named_parameters()))
    events = events_of(network, plan(16, save_every=1, precision=torch.float16), rate=1e-6)
    for event in events:
        if isinstance(event, Step):
            assert math.isfinite(event.loss)
            skipped.append(event.skipped)
        if isinstance(event, Saved):
            scales.append(event.checkpoint.state["updates"]["scaler"]["scale"])
            if all(skipped):
                found = dict(network.named_parameters())
                torch.testing.assert_close(found, before, rtol=0, atol=0)
    halvings = sum(skipped)
    assert 1 <= halvings < 16
    assert skipped == [True] * halvings + [False] * (16 - halvings)
    assert scales == [2.0 ** (16 - min(number, halvings)) for number in range(1, 17)]


def test_a_gradient_that_no_scale_helps_ends_float16():
    message = r"length is (nan|inf) at step 17 .*or train in bfloat16"  # 2^16 halved 16 times
    steps = steps_until(Undefined(from_step=1), message, precision=torch.float16)
    assert [step.skipped for step in steps] == [True] * 16


# --- what is not finite --------------------------------------------------------------------------


class Overflow(Small):
    """In ``bad`` steps the scores are ``value``, and the statistics of BatchNorm are lost."""

    def __init__(self, value: float, *bad: int) -> None:
        super().__init__()
        self.value, self.bad, self.step = value, bad, 0

    def forward(self, images):
        self.step += 1
        if self.step in self.bad:
            images = images * math.inf
        logits = super().forward(images).logits
        return Prediction(logits * self.value if self.step in self.bad else logits)


class Undefined(Small):
    """The scores are those of ``Small``; their gradient has no value from a step on."""

    def __init__(self, from_step: int) -> None:
        super().__init__(norm=False)
        self.from_step, self.step = from_step, 0

    def forward(self, images):
        self.step += 1
        logits = super().forward(images).logits
        if self.step >= self.from_step:
            logits = logits + (0 * self.classify[1].weight.float().square().sum()).sqrt()
        return Prediction(logits)


def steps_until(network: nn.Module, message: str, **options) -> list[Step]:
    """Those before the training ends with the message."""
    steps = []

    def train() -> None:
        events = events_of(network, plan(30, **options))
        steps.extend(event for event in events if isinstance(event, Step))

    with pytest.raises(InputError, match=message):
        train()
    assert [step.number for step in steps] == list(range(1, len(steps) + 1))
    return steps


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_ends_the_training(value):
    message = r"the loss is nan at step 3 \(samples 2\.0, 2\.1, .*2\.4\); lower learning_rate"
    network = Overflow(value, 3)
    events = events_of(network, plan(5, save_every=2))
    assert [type(next(events)) for _ in range(3)] == [Step, Step, Saved]
    before = copy.deepcopy(dict(network.named_parameters()))
    with pytest.raises(InputError, match=message):
        next(events)
    torch.testing.assert_close(dict(network.named_parameters()), before, rtol=0, atol=0)


def test_a_gradient_that_is_not_finite_ends_the_training():
    message = r"the gradient's length is nan at step 3 \(samples 2\.0"
    assert len(steps_until(Undefined(3), message)) == 2


def test_as_many_as_allowed_are_skipped_in_succession():
    network = Overflow(math.nan, 2, 4, 5, 7, 8, 9)
    message = r"the loss is nan at step 9 \(samples 8\.0, .*\), 3 steps in succession; lower"
    steps = steps_until(network, message, max_skipped=2)
    assert [step.skipped for step in steps] == [number in (2, 4, 5, 7, 8) for number in range(1, 9)]


def test_a_skipped_step_leaves_no_trace_but_the_passing_of_time():
    """The same as a training whose optimizer stood still in that step."""
    skipping, network = Overflow(math.nan, 3), Small()
    options = {"max_skipped": 1, "ema_decay": 0.5}
    events = list(events_of(skipping, plan(6, **options)))
    rates = [event.learning_rate for event in events if isinstance(event, Step)]
    assert rates == pytest.approx([0.05 * (6 - number) / 6 for number in range(6)])
    saved = {}
    for event in events_of(network, plan(6, save_every=1, **options)):
        if isinstance(event, Saved):
            saved[event.number] = copy.deepcopy(event.checkpoint)
            if event.number == 2:
                break
    halfway = saved[2]
    halfway.state["schedule"] |= {"last_epoch": 3, "_step_count": 4}
    for group in halfway.state["optimizer"]["param_groups"]:
        group["lr"] = 0.05 * 3 / 6
    resumed = type(halfway)(3, halfway.state, halfway.kept)
    straight = Small()
    rest = list(events_of(straight, plan(6, **options), resumed=resumed))
    losses = [event.loss for event in rest if isinstance(event, Step)]
    found = [event.loss for event in events if isinstance(event, Step)]
    assert found[3:] == losses
    torch.testing.assert_close(skipping.state_dict(), straight.state_dict(), rtol=0, atol=0)
    ends = [e.checkpoint.state["average"] for e in (events[-1], rest[-1])]
    torch.testing.assert_close(ends[0], ends[1], rtol=0, atol=0)
    assert all(isinstance(event, Step | Evaluated | Saved) for event in events)


def test_how_many_were_skipped_survives_a_resumption():
    network = Overflow(math.nan, 2, 3, 4)
    for event in events_of(network, plan(9, save_every=3, max_skipped=2)):
        if isinstance(event, Saved):
            halfway = copy.deepcopy(event.checkpoint)
            break
    assert halfway.state["updates"]["skipped"] == 2
    rest = events_of(Overflow(math.nan, 1), plan(9, max_skipped=2), resumed=halfway)
    with pytest.raises(InputError, match=r"step 4 .*, 3 steps in succession"):
        next(rest)


def skipped_by_both() -> list[bool]:
    """Worker 1 alone sees what is not finite, in step 2."""
    network = Overflow(math.nan, 2) if rank() else Small()
    options = {"max_skipped": 1, "clip_norm": 0.1}
    return [
        event.skipped for event in events_of(network, plan(3, **options)) if isinstance(event, Step)
    ]


@pytest.mark.long
def test_workers_skip_together():
    assert run_workers(2, skipped_by_both) == [[False, True, False]] * 2


def test_a_batch_is_named_by_its_first_samples():
    network = Overflow(math.nan, 1)
    (batch,) = batches(1, size=12)
    batch = Batch(batch.images, batch.labels, tuple(f"image{number}" for number in range(12)))
    updates = Updates(network, cross_entropy, build_optimizer("sgd", network, learning_rate=0.1))
    with pytest.raises(InputError, match=r"\(samples image0, .*, image7\); lower"):
        updates.take(batch, 1)


def refusal_of_both() -> str:
    """Each has two images, one at a time; worker 1 sees what is not finite in its second."""
    network = Overflow(math.nan, 2) if rank() else Small()
    (batch,) = batches(1, size=4)
    model = prepare_model(network, torch.device("cpu"), sync_batchnorm=False)
    optimizer = build_optimizer("sgd", network, learning_rate=0.1)
    updates = Updates(model, cross_entropy, optimizer, micro_batch=1)
    try:
        updates.take(batch, 1)
    except InputError as error:
        return str(error)
    return ""


@pytest.mark.long
def test_the_samples_named_are_those_of_the_part_that_was_not_finite_on_any_worker():
    said = run_workers(2, refusal_of_both)
    assert said[0] == said[1]
    assert "(samples 0.3);" in said[0]
