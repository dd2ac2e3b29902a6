"""The loop itself, on a network small enough to compute by other means."""

import copy
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from segcore.distributed import SyncBatchNorm
from segcore.errors import InputError
from segcore.metrics import Scores
from segcore.models import build_model
from segcore.optimization import build_optimizer, build_schedule
from segcore.training import Evaluated, Saved, Step, fit, prepare_model, unwrapped
from segcore.transforms import normalise
from segcore.types import IGNORE, Batch
from tests.small_training import (
    BATCH,
    Small,
    batches,
    cross_entropy,
    events_of,
    losses_of,
    nothing_scored,
    plan,
    scripted,
)
from tests.workers import run_workers


def test_a_step_by_hand():
    (batch,) = batches(1)
    network = Small().double()
    slow = copy.deepcopy(network).train()
    (loss,) = losses_of(network, plan(1))
    logits = F.interpolate(slow(normalise(batch.images)).logits, (8, 10), mode="bilinear")
    log_probabilities = logits.log_softmax(1)
    losses = [
        -log_probabilities[image, int(batch.labels[image, row, column]), row, column]
        for image, row, column in (batch.labels != IGNORE).nonzero().tolist()
    ]
    assert len(losses) == 8 * (5 * 10 - 2 * (0 + 1 + 2 + 3 + 4))
    mean = torch.stack(losses).mean()
    assert loss == pytest.approx(float(mean.detach()), rel=1e-12)
    mean.backward()
    for mine, theirs in zip(network.parameters(), slow.parameters(), strict=True):
        # The first step of SGD, with weight decay 5e-4 and no momentum yet.
        moved = theirs - 0.05 * (theirs.grad + 5e-4 * theirs)
        torch.testing.assert_close(mine, moved, rtol=1e-12, atol=1e-14)


def test_events_and_when_they_come():
    network = Small()
    events = list(events_of(network, plan(5, evaluate_every=2, save_every=3)))
    names = [f"{type(event).__name__} {event.number}" for event in events]
    assert names == [
        "Step 1", "Step 2", "Evaluated 2", "Step 3", "Saved 3", "Step 4", "Evaluated 4", "Step 5",
        "Evaluated 5", "Saved 5",
    ]  # fmt: skip
    rates = [event.learning_rate for event in events if isinstance(event, Step)]
    assert rates == pytest.approx([0.05, 0.04, 0.03, 0.02, 0.01])
    assert [event.best for event in events if isinstance(event, Evaluated)] == [True, False, False]
    for step in (event for event in events if isinstance(event, Step)):
        assert 0 <= step.data_seconds <= step.seconds
    assert network.training


def test_without_a_labelled_pixel_nothing_is_learnt():
    network = Small(norm=False)
    before = copy.deepcopy(network.state_dict())
    (batch,) = batches(1)
    batch.labels.fill_(IGNORE)
    optimizer = build_optimizer("sgd", network, learning_rate=1.0, weight_decay=0.0)
    schedule = build_schedule("constant", optimizer, steps=1)
    step, *_ = fit(network, [batch], cross_entropy, optimizer, schedule, nothing_scored, plan(1))
    assert step.loss == 0
    torch.testing.assert_close(network.state_dict(), before, rtol=0, atol=0)


@pytest.mark.parametrize("micro_batch", [1, 2, 4, 5, 9])
def test_accumulation_is_one_pass(micro_batch):
    whole, parts = (Small(norm=False).double() for _ in range(2))
    expected = losses_of(whole, plan(6))
    found = losses_of(parts, plan(6, micro_batch=micro_batch))
    assert found == pytest.approx(expected, rel=1e-12)
    torch.testing.assert_close(parts.state_dict(), whole.state_dict(), rtol=1e-10, atol=1e-12)


def trained(norm: bool, dtype: torch.dtype, steps: int, micro_batch: int | None = None):
    network = Small(norm=norm).to(dtype)
    losses = losses_of(network, plan(steps, micro_batch=micro_batch), rate=0.2)
    kinds = {type(each) for each in network.modules()}
    return losses, network.state_dict(), SyncBatchNorm in kinds


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
@pytest.mark.long
def test_two_workers_train_as_one(dtype, tolerance):
    losses, weights, _ = trained(True, dtype, 20)
    assert losses[-1] < 0.9 * losses[0]
    for found, theirs, synchronised in run_workers(2, trained, True, dtype, 20):
        assert synchronised
        assert found == pytest.approx(losses, rel=tolerance)
        torch.testing.assert_close(theirs, weights, rtol=10 * tolerance, atol=tolerance)


@pytest.mark.long
def test_two_workers_that_accumulate_train_as_one():
    losses, weights, _ = trained(False, torch.float64, 6)
    for found, theirs, _ in run_workers(2, trained, False, torch.float64, 6, 2):
        assert found == pytest.approx(losses, rel=1e-12)
        torch.testing.assert_close(theirs, weights, rtol=1e-10, atol=1e-12)


def scored_buffers():
    """The running means that each worker scores with, without synchronised BatchNorm."""
    seen = []

    def evaluate(network):
        seen.append(network.backbone[1].running_mean.clone())
        return nothing_scored(network)

    network = Small()
    for event in events_of(network, plan(2), evaluate=evaluate, sync_batchnorm=False):
        if isinstance(event, Saved):
            weights = event.checkpoint.best_weights
    kept = None if weights is None else weights["backbone.1.running_mean"]
    return seen, kept, unwrapped(network) is network


@pytest.mark.long
def test_every_worker_scores_the_weights_that_are_kept():
    (mine, kept, _), (theirs, none, _) = run_workers(2, scored_buffers)
    assert none is None
    torch.testing.assert_close(mine, theirs, rtol=0, atol=0)
    torch.testing.assert_close(mine[0], kept, rtol=0, atol=0)


def test_dropout_is_a_function_of_seed_and_step_alone():
    def run(seed: int, *, disturbed: bool = False) -> list[float]:
        found = []
        for event in events_of(Small(dropout=0.5), plan(4, seed=seed), rate=1e-12):
            if disturbed:
                torch.rand(3)  # a consumer that draws numbers of its own
            if isinstance(event, Step):
                found.append(event.loss)
        return found

    assert run(0) == run(0, disturbed=True)
    assert run(0) != run(1)
    calm = losses_of(Small(dropout=0.0), plan(4), rate=1e-12)
    shifts = [dropped - whole for dropped, whole in zip(run(0), calm, strict=True)]
    assert len({round(shift, 6) for shift in shifts}) == 4


def masks():
    """Which channels each worker drops in a step: the same images for both."""
    dropped = []
    network = Small(dropout=0.5)
    network.classify[0].register_forward_hook(
        lambda _, inputs, output: dropped.append((output == 0).flatten(2).all(2).tolist())
    )
    feed = [next(batches(1, size=2 * BATCH))] * 2
    feed = [Batch(batch.images * 0 + 9, batch.labels * 0, batch.ids) for batch in feed]
    model = prepare_model(network, torch.device("cpu"))
    optimizer = build_optimizer("sgd", network, learning_rate=1e-12)
    schedule = build_schedule("constant", optimizer, steps=2)
    list(fit(model, feed, cross_entropy, optimizer, schedule, nothing_scored, plan(2)))
    return dropped[:2]


@pytest.mark.long
def test_workers_and_steps_drop_differently():
    mine, theirs = run_workers(2, masks)
    assert mine[0] != mine[1]
    assert mine[0] != theirs[0]


def test_low_precision_gives_nearly_the_same_gradients():
    networks = Small(norm=False), Small(norm=False)
    exact = losses_of(networks[0], plan(8))
    low = losses_of(networks[1], plan(8, precision=torch.bfloat16))
    assert low != exact
    assert low == pytest.approx(exact, rel=0.02)
    assert {value.dtype for value in networks[1].parameters()} == {torch.float32}


def test_best_weights_are_those_of_the_best_score_and_survive_a_resumption():
    at_step, halfway = {}, None
    straight = Small(dropout=0.3)
    for event in events_of(
        straight,
        plan(6, evaluate_every=1, save_every=3),
        evaluate=scripted(0.2, 0.7, 0.4, 0.6, 0.7, 0.1),
    ):
        if isinstance(event, Evaluated):
            at_step[event.number] = copy.deepcopy(straight.state_dict())
            assert event.best == (event.number in (1, 2)), "an equal score is no better one"
        if isinstance(event, Saved):
            halfway = halfway or copy.deepcopy(event.checkpoint)
            last = event.checkpoint
    assert halfway.step == 3
    resumed = Small(dropout=0.3)
    rest = events_of(
        resumed,
        plan(6, evaluate_every=1, save_every=3),
        resumed=halfway,
        evaluate=scripted(0.6, 0.7, 0.1),
    )
    *_, saved = rest
    for checkpoint in (last, saved.checkpoint):
        assert checkpoint.best_miou == 0.7
        torch.testing.assert_close(checkpoint.best_weights, dict(at_step[2]), rtol=0, atol=0)
    torch.testing.assert_close(resumed.state_dict(), straight.state_dict(), rtol=0, atol=0)


def test_the_best_so_many_are_kept_and_of_equal_ones_the_earlier():
    at_step, network = {}, Small()
    events = events_of(
        network,
        plan(6, evaluate_every=1, keep_best=3),
        evaluate=scripted(0.2, 0.7, 0.4, 0.6, 0.7, 0.1),
    )
    for event in events:
        if isinstance(event, Evaluated):
            at_step[event.number] = copy.deepcopy(network.state_dict())
        if isinstance(event, Saved):
            last = event.checkpoint
    assert [(each.step, each.miou) for each in last.kept] == [(2, 0.7), (5, 0.7), (4, 0.6)]
    for each in last.kept:
        torch.testing.assert_close(each.weights, dict(at_step[each.step]), rtol=0, atol=0)


def test_no_better_score_for_long_enough_ends_the_training():
    """Through a resumption; what follows a training that gave up is nothing."""
    mious = (0.2, 0.7, 0.4, 0.6, 0.7, 0.9, 0.9)
    options = {"evaluate_every": 1, "save_every": 2, "patience": 3}
    events = list(events_of(Small(), plan(7, **options), evaluate=scripted(*mious)))
    saved = {e.number: copy.deepcopy(e.checkpoint) for e in events if isinstance(e, Saved)}
    assert [e.number for e in events if isinstance(e, Evaluated)] == [1, 2, 3, 4, 5]
    assert isinstance(events[-1], Saved)
    assert {number: each.stale for number, each in saved.items()} == {2: 0, 4: 2, 5: 3}
    rest = list(
        events_of(Small(), plan(7, **options), evaluate=scripted(*mious[4:]), resumed=saved[4])
    )
    assert [f"{type(event).__name__} {event.number}" for event in rest] == [
        "Step 5", "Evaluated 5", "Saved 5",
    ]  # fmt: skip
    assert list(events_of(Small(), plan(7, **options), resumed=saved[5])) == []


def test_what_is_scored_and_kept_is_the_average_of_the_weights():
    network, scored = Small(), []

    def evaluate(averaged):
        scored.append((averaged.training, copy.deepcopy(averaged.state_dict())))
        return nothing_scored(averaged)

    events = events_of(network, plan(4, save_every=2, ema_decay=0.5), evaluate=evaluate)
    after = [copy.deepcopy(Small().state_dict())]
    for event in events:
        if isinstance(event, Step):
            after.append(copy.deepcopy(network.state_dict()))
        if isinstance(event, Saved):
            last = event.checkpoint
    expected = after[0]
    for number, weights in enumerate(after[1:], start=1):
        decay = min(0.5, (1 + number) / (10 + number))
        expected = {
            name: decay * value + (1 - decay) * weights[name] if value.is_floating_point()
            else weights[name]
            for name, value in expected.items()
        }  # fmt: skip
    ((training, found),) = scored
    assert not training
    torch.testing.assert_close(dict(found), expected, rtol=1e-6, atol=1e-7)
    assert int(found["backbone.1.num_batches_tracked"]) == 4
    torch.testing.assert_close(last.best_weights, dict(found), rtol=0, atol=0)
    torch.testing.assert_close(dict(last.state["model"]), dict(after[4]), rtol=0, atol=0)


def full_plan(steps: int):
    """All that a step may be asked for, but for float16."""
    options = {"evaluate_every": 2, "patience": 2, "keep_best": 2}
    return plan(steps, clip_norm=0.2, ema_decay=0.7, max_skipped=1, **options)


def trained_in_full() -> tuple[list[float], list[int], dict[str, torch.Tensor]]:
    """Losses, when it was evaluated, and the average of the weights."""
    events = list(events_of(Small().double(), full_plan(12), evaluate=nothing_scored))
    losses = [event.loss for event in events if isinstance(event, Step)]
    times = [event.number for event in events if isinstance(event, Evaluated)]
    assert isinstance(events[-1], Saved)
    return losses, times, events[-1].checkpoint.state["average"]


@pytest.mark.long
def test_two_workers_clip_average_and_give_up_as_one():
    losses, times, average = trained_in_full()
    assert times == [2, 4, 6]  # the first score is never bettered
    for found, theirs, averaged in run_workers(2, trained_in_full):
        assert theirs == times
        assert found == pytest.approx(losses, rel=1e-12)
        torch.testing.assert_close(averaged, average, rtol=1e-10, atol=1e-12)


def test_a_checkpoint_of_another_network_is_refused():
    *_, saved = events_of(Small(norm=False), plan(1))
    with pytest.raises(InputError, match=r"step 1 is of another network .*; delete it"):
        next(events_of(Small(), plan(2), resumed=saved.checkpoint))


@pytest.mark.long
def test_images_without_a_labelled_pixel_cannot_decide_what_is_best():
    def evaluate(_: nn.Module) -> Scores:
        return Scores(np.zeros((4, 4), np.int64))

    events = events_of(Small(), plan(2), evaluate=evaluate)
    assert [type(next(events)) for _ in range(2)] == [Step, Step]
    with pytest.raises(InputError, match=r"hold no labelled pixel, so there is no mIoU"):
        next(events)


@pytest.mark.long
def test_what_is_wrapped_is_found_again():
    network = Small()
    model = prepare_model(network, torch.device("cpu"), compile=True)
    assert model is not network
    assert unwrapped(model) is network
    assert network.classify[1].weight.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.long
def test_four_images_are_learnt_by_heart(tiny):
    from segcore.backbones import build_backbone
    from segcore.losses import build_criterion
    from segcore.shards import ShardReader

    reader = ShardReader(tiny, "train")
    ids, images, labels = zip(*(reader[index] for index in range(4)), strict=True)
    batch = Batch(torch.stack(images), torch.stack(labels), ids)
    torch.manual_seed(0)
    backbone = build_backbone("mobilenetv2_035", output_stride=8)
    network = build_model("fcn", backbone, 4, width=32, auxiliary_width=32, dropout=0.0)
    optimizer = build_optimizer("adamw", network, learning_rate=0.01)
    steps = 80
    events = fit(
        prepare_model(network, torch.device("cpu")),
        [batch] * steps,
        build_criterion("cross_entropy"),
        optimizer,
        build_schedule("cosine", optimizer, steps=steps),
        nothing_scored,
        plan(steps),
    )
    losses = [event.loss for event in events if isinstance(event, Step)]
    # Four classes, 1 + 0.4 of a loss each: both heads start by knowing nothing.
    assert losses[0] == pytest.approx(1.4 * math.log(4), rel=0.1)
    assert losses[-1] < 0.15 * losses[0]
