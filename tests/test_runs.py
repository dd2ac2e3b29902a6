"""Rows trained for real on the dataset ``tiny``: repeated, resumed, spread over workers."""

import dataclasses
import itertools
import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.utils.class_weight import compute_class_weight

from segcore.checkpoints import STATE
from segcore.errors import InputError
from segcore.model_files import build_network
from segcore.models import list_methods, list_options
from segcore.row import Run
from segcore.runs import check, train
from segcore.shards import ShardReader
from segcore.training import Evaluated, Step
from tests.tiny_training import calm, hash_of, last_of, losses_of, row, unequal
from tests.workers import run_workers

GOLDEN = Path(__file__).parent / "golden" / "losses"
# --- repeated, resumed -------------------------------------------------------------------------


def test_a_seed_decides_everything(tiny):
    torch.rand(5)  # the state that a process happens to be in does not
    first, again, other = (last_of(row(steps=3, seed=seed), tiny) for seed in (1, 1, 2))
    assert hash_of(first.state["model"]) == hash_of(again.state["model"])
    assert hash_of(first.state["model"]) != hash_of(other.state["model"])


def test_loader_workers_change_nothing(tiny):
    alone, spread = (losses_of(row(steps=3, loader_workers=count), tiny) for count in (0, 2))
    assert alone == spread


def test_a_training_that_had_ended_takes_no_step(tiny, tmp_path):
    last_of(row(steps=2), tiny).write(tmp_path / "last")
    assert list(train(row(steps=2), tiny, tmp_path / "last")) == []


def test_a_checkpoint_cut_short_is_refused(tiny, tmp_path):
    last_of(row(steps=1), tiny).write(tmp_path / "last")
    os.truncate(tmp_path / "last" / STATE, 5000)
    with pytest.raises(InputError, match="last is no whole checkpoint"):
        next(train(row(steps=1), tiny, tmp_path / "last"))


def test_a_checkpoint_of_another_configuration_or_of_other_data_is_refused(tiny, tmp_path):
    run = row(steps=2)
    saved = last_of(run, tiny)
    saved.write(tmp_path / "last")
    elsewhere = row(steps=2, loader_workers=2, threads=2)  # where it runs is all the same
    assert list(train(elsewhere, tiny, tmp_path / "last")) == []
    message = r"last is a checkpoint of another configuration or of other data .*; delete"
    with pytest.raises(InputError, match=message):
        next(train(row(steps=2, learning_rate=0.02), tiny, tmp_path / "last"))
    dataclasses.replace(saved, of=f"{run.recipe_fingerprint()}-other").write(tmp_path / "last")
    with pytest.raises(InputError, match=message):
        next(train(run, tiny, tmp_path / "last"))


# --- spread over workers -----------------------------------------------------------------------


def losses_and_scores(run: Run, shards: str) -> tuple[list[float], list[list[int]]]:
    losses, confusion = [], []
    for event in train(run, shards):
        if isinstance(event, Step):
            losses.append(event.loss)
        if isinstance(event, Evaluated):
            confusion = event.scores.confusion.tolist()
    return losses, confusion


@pytest.mark.long
def test_two_workers_train_and_score_as_one(tiny):
    losses, confusion = losses_and_scores(unequal(), tiny)
    found = run_workers(2, losses_and_scores, unequal(workers=2), tiny)
    assert losses[-1] < losses[0]
    for theirs, counts in found:
        assert theirs == pytest.approx(losses, rel=1e-5)
        assert counts == found[0][1]
    moved = torch.tensor(counts) - torch.tensor(confusion)
    assert moved.sum() == 0
    # Rounding may turn a pixel whose two best scores are equal.
    assert moved.abs().sum() <= 0.001 * torch.tensor(confusion).sum()


@pytest.mark.long
def test_workers_with_different_numbers_of_parts_are_refused(tiny):
    message = "batch_size 5 over 2 workers in parts of micro_batch 2 .* a multiple of 2 or leave"
    with pytest.raises(InputError, match=message):
        check(unequal(workers=2, micro_batch=2), 4)
    check(unequal(workers=2, micro_batch=3), 4)
    check(unequal(workers=1, micro_batch=2), 4)
    assert run_workers(2, refusal, tiny)[1].startswith("batch_size 5 over 2 workers")


def refusal(shards: str) -> str:
    """Where fewer or more workers turn up than the row says."""
    with pytest.raises(InputError) as caught:
        next(train(unequal(micro_batch=2), shards))
    return str(caught.value)


# --- the course of a row ---------------------------------------------------------------------


def test_training_draws_from_all_its_splits_as_one(tiny, monkeypatch):
    seen = []

    def look(model, batches, *rest):
        seen.extend(batch.ids for batch in batches)
        return iter(())

    monkeypatch.setattr("segcore.runs.fit", look)
    list(train(row(steps=3, train_splits=("train", "val")), tiny))
    assert sorted(sum(seen, ())) == [f"{number:02d}" for number in range(12)]
    with pytest.raises(InputError, match="has no split 'train_extra'"):
        next(train(row(train_splits=("train", "train_extra")), tiny))


def test_what_a_row_says_of_its_steps_reaches_them(tiny):
    torch.manual_seed(0)
    before = build_network(row(), 4).state_dict()
    said = {"ema_decay": 0.5, "clip_norm": 1e-3, "freeze_batchnorm": True, "weight_decay": 0.0}
    said |= {"bias_multiplier": 2.0, "decay_all": False, "keep_best": 2, "evaluate_every": 1}
    last = last_of(row(steps=2, save_every=2, **said), tiny)
    state = last.state["model"]
    norms = [name for name in state if "running_mean" in name and name.startswith("backbone.")]
    for name in norms:
        for kind in ("running_mean", "running_var", "weight", "bias"):
            same = name.replace("running_mean", kind)
            torch.testing.assert_close(state[same], before[same], rtol=0, atol=0)
    # Two steps of SGD at 0.01, momentum 0.9, twice as fast for biases: shorter than this.
    moved = sum(float((state[name] - before[name]).square().sum()) for name in learnt(state))
    assert 0 < moved**0.5 < 2 * 0.01 * (1 + 1.9) * 1e-3
    assert len(last.state["optimizer"]["param_groups"]) == 5
    assert 1 <= len(last.kept) <= 2
    best = next(each for each in last.kept if each.step == max(k.step for k in last.kept))
    assert best.weights is not None
    if best.step == 2:
        torch.testing.assert_close(best.weights, dict(last.state["average"]), rtol=0, atol=0)


def learnt(state: dict[str, torch.Tensor]) -> list[str]:
    return [name for name in state if not name.endswith(("mean", "var", "tracked"))]


# --- losses of a row -----------------------------------------------------------------------------


def first_loss(shards: str, **values: Any) -> float:
    return losses_of(calm(steps=1, **values), shards)[0]


@pytest.mark.parametrize("splits", [("train",), ("train", "val")])
def test_class_weights_are_those_of_what_training_sees(tiny, splits):
    """By name they are what the manifest's counts say; scikit-learn agrees on the labels."""
    reader = ShardReader(tiny, splits)
    assert len(reader) == 4 + 4 * len(splits)
    labels = torch.cat([reader[index].labels.flatten() for index in range(len(reader))]).numpy()
    labels = labels[labels != 255]
    weights = compute_class_weight("balanced", classes=np.arange(4), y=labels)
    named = first_loss(tiny, class_weights="balanced", train_splits=splits)
    assert named == first_loss(tiny, class_weights=tuple(weights), train_splits=splits)
    assert named != pytest.approx(first_loss(tiny, train_splits=splits), rel=0.01)


def test_every_weight_of_a_row_reaches_its_loss(tiny):
    plain, weights = first_loss(tiny), ("dice_weight", "lovasz_weight")
    dice, lovasz, both = (
        first_loss(tiny, **dict.fromkeys(names, 0.5)) - plain
        for names in (weights[:1], weights[1:], weights)
    )
    assert 0 < dice < 0.5  # half of a loss that is at most one
    assert 0 < lovasz < 0.5
    assert both == pytest.approx(dice + lovasz, abs=1e-5)
    options = {"width": 16, "auxiliary_width": 16}
    encnet = {"method": "encnet", "options": options, "auxiliary_weight": 0.0}
    none, one, two = (first_loss(tiny, presence_weight=w, **encnet) for w in (0.0, 0.5, 1.0))
    assert two - none == pytest.approx(2 * (one - none), abs=1e-5)
    assert one > none


@pytest.mark.long
def test_region_losses_are_the_same_over_workers(tiny):
    losses = {"loss": "lovasz", "dice_weight": 1.0, "class_weights": "balanced"}
    whole = losses_of(unequal(steps=1, **losses), tiny)
    found = run_workers(2, losses_of, unequal(steps=1, workers=2, **losses), tiny)
    assert found[0] == pytest.approx(whole, rel=1e-5)


# --- golden losses -----------------------------------------------------------------------------


@pytest.mark.long
@pytest.mark.parametrize("method", list_methods())
def test_losses_are_those_on_record(tiny, method, request):
    """Twenty steps of every method, narrowed to 32 channels where it has widths.

    A change that was meant: ``python -m pytest tests/test_runs.py -k record --write-golden``.
    """
    widths = {name: 32 for name in list_options(method) if name.endswith("width")}
    steps = (e for e in train(calm(method=method, options=widths), tiny) if isinstance(e, Step))
    losses = [step.loss for step in itertools.islice(steps, 20)]
    path = GOLDEN / f"{method}.json"
    if request.config.getoption("--write-golden"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(losses, indent=1) + "\n")
    assert path.exists(), f"no losses of {method} on record; write them with --write-golden"
    assert losses == pytest.approx(json.loads(path.read_text()), rel=1e-4)


def test_every_record_is_of_a_method():
    assert {path.stem for path in GOLDEN.glob("*.json")} == set(list_methods())


# --- what a row may not ask for ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"options": {"widht": 3}}, "no option 'widht'; did you mean 'width'"),
        ({"method": "fnc"}, "no method 'fnc'; did you mean 'fcn'"),
        ({"backbone": "resnet81"}, "no backbone 'resnet81'"),
        ({"output_stride": 3}, "cannot be built at output stride 3"),
        ({"loss_options": {"treshold": 1}}, "no option 'treshold'"),
        ({"loss_options": {"class_weights": [1]}}, "'class_weights', which is a key of the row"),
        ({"class_weights": (1.0, 2.0)}, "holds 2 weights for 4 classes; give one for each, or"),
    ],
)
def test_a_row_is_checked_before_it_costs_time(values, message):
    with pytest.raises(InputError, match=message):
        check(row(**values), 4)


def test_a_gpu_that_is_not_there_is_refused(tiny, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(InputError, match="device is 'cuda' but torch sees no GPU here"):
        next(train(row(device="cuda"), tiny))


def test_a_missing_split_is_told_before_the_first_step(tiny, tmp_path):
    shutil.copytree(tiny, tmp_path / "shards")
    path = tmp_path / "shards" / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["splits"]["test"] = manifest["splits"].pop("val")
    path.write_text(json.dumps(manifest))
    with pytest.raises(InputError, match="has no split 'val'"):
        next(train(row(), str(tmp_path / "shards")))
    first_split = row(steps=1, splits=("test",))
    (scored,) = (
        e for e in train(first_split, str(tmp_path / "shards")) if isinstance(e, Evaluated)
    )
    assert scored.scores.confusion.sum() == 48 * (4 * 64 - 3 * (0 + 1 + 2 + 3))


def test_low_precision_trains_nearly_the_same(tiny):
    precisions = ("float32", "bfloat16", "float16")
    exact, low, half = (losses_of(row(steps=4, precision=p), tiny) for p in precisions)
    assert exact != low
    assert exact != half
    assert low == pytest.approx(exact, rel=0.05)
    assert half == pytest.approx(exact, rel=0.01)
