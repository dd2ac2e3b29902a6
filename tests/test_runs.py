"""Rows trained for real on the tiny dataset: repeated, killed, resumed, spread over workers."""

import copy
import hashlib
import itertools
import json
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.utils.class_weight import compute_class_weight

from segcore.checkpoints import STATE, Checkpoint
from segcore.errors import InputError
from segcore.inference import predict_labels
from segcore.models import list_methods, list_options
from segcore.row import Run
from segcore.runs import WEIGHTS, build_network, check, load_model, save_model, train
from segcore.shards import Manifest, ShardReader
from segcore.training import Evaluated, Saved, Step
from tests.workers import exit_code_of, run_workers

GOLDEN = Path(__file__).parent / "golden" / "losses"
HALF = 4
"""Steps before a training is cut off, and after."""


def row(**values: Any) -> Run:
    """A small network, with everything that is random in training switched on."""
    plain = {
        "method": "fcn",
        "backbone": "mobilenetv2_035",
        "dataset": "tiny",
        "options": {"width": 16, "auxiliary_width": 16},
        "steps": 2 * HALF,
        "batch_size": 4,
        "crop": (64, 64),
        "evaluate_every": HALF,
        "save_every": HALF,
        "device": "cpu",
    }
    return Run(**(plain | values))


def losses_of(run: Run, shards: str, checkpoint: Path | None = None) -> list[float]:
    return [event.loss for event in train(run, shards, checkpoint) if isinstance(event, Step)]


def last_of(run: Run, shards: str, checkpoint: Path | None = None) -> Checkpoint:
    """The last checkpoint that a training saves."""
    saved = [event for event in train(run, shards, checkpoint) if isinstance(event, Saved)]
    return copy.deepcopy(saved[-1].checkpoint)


def hash_of(weights: dict[str, torch.Tensor]) -> str:
    digest = hashlib.sha256()
    for name, value in sorted(weights.items()):
        digest.update(name.encode() + value.contiguous().numpy().tobytes())
    return digest.hexdigest()


# --- repeated, killed, resumed -----------------------------------------------------------------


def test_a_seed_decides_everything(tiny):
    torch.rand(5)  # the state that a process happens to be in does not
    first, again, other = (last_of(row(steps=3, seed=seed), tiny) for seed in (1, 1, 2))
    assert hash_of(first.state["model"]) == hash_of(again.state["model"])
    assert hash_of(first.state["model"]) != hash_of(other.state["model"])


def test_loader_workers_change_nothing(tiny):
    alone, spread = (losses_of(row(steps=3, loader_workers=count), tiny) for count in (0, 2))
    assert alone == spread


def train_and_die(shards: str, folder: Path, moment: str) -> None:
    """Saves what there is to save, and is killed two steps later or inside the next save."""
    for event in train(row(loader_workers=2), shards):
        if isinstance(event, Step) and event.number == HALF + 2 and moment == "step":
            os.kill(os.getpid(), signal.SIGKILL)
        if isinstance(event, Saved):
            if event.number > HALF:
                os.fsync = lambda _: os.kill(os.getpid(), signal.SIGKILL)
            event.checkpoint.write(folder)


@pytest.fixture(scope="module")
def never_stopped(tiny) -> tuple[list[float], Checkpoint]:
    losses = []
    for event in train(row(loader_workers=2), tiny):
        if isinstance(event, Step):
            losses.append(event.loss)
        if isinstance(event, Saved):
            checkpoint = event.checkpoint
    return losses, copy.deepcopy(checkpoint)


@pytest.mark.parametrize("moment", ["step", "save"])
@pytest.mark.long
def test_killed_and_resumed_is_never_stopped(tiny, tmp_path, never_stopped, moment):
    losses, straight = never_stopped
    folder = tmp_path / "last"
    assert exit_code_of(train_and_die, tiny, folder, moment) == -signal.SIGKILL
    assert len(list(tmp_path.glob(".last.*.part"))) == (moment == "save")
    assert Checkpoint.read(folder).step == HALF
    resumed = []
    for event in train(row(loader_workers=2), tiny, folder):
        if isinstance(event, Step):
            resumed.append(event.loss)
        if isinstance(event, Saved):
            event.checkpoint.write(folder)
    assert resumed == losses[HALF:]
    found = Checkpoint.read(folder)
    assert hash_of(found.state["model"]) == hash_of(straight.state["model"])
    torch.testing.assert_close(vars(found), vars(straight), rtol=0, atol=0)


def test_a_training_that_had_ended_takes_no_step(tiny, tmp_path):
    last_of(row(steps=2), tiny).write(tmp_path / "last")
    assert list(train(row(steps=2), tiny, tmp_path / "last")) == []


def test_a_checkpoint_cut_short_is_refused(tiny, tmp_path):
    last_of(row(steps=1), tiny).write(tmp_path / "last")
    os.truncate(tmp_path / "last" / STATE, 5000)
    with pytest.raises(InputError, match="last is no whole checkpoint"):
        next(train(row(steps=1), tiny, tmp_path / "last"))


# --- spread over workers -----------------------------------------------------------------------


def calm(**values: Any) -> Run:
    """Twenty steps that rounding does not lead astray: 5e-7 between memory layouts, measured.

    A narrow backbone at a high learning rate differs by percents then, with nothing wrong: its
    channels that hardly vary are divided by next to nothing.
    """
    plain = {"backbone": "resnet10t", "learning_rate": 5e-4, "precision": "float32"}
    return row(**(plain | {"steps": 20, "evaluate_every": 20, "save_every": 20} | values))


def unequal(**values: Any) -> Run:
    """Five images a step, so two workers have two and three; void pixels make them differ more."""
    options = {"width": 16, "auxiliary_width": 16, "dropout": 0.0}
    return calm(options=options, batch_size=5, **values)


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


# --- losses of a row -----------------------------------------------------------------------------


def first_loss(shards: str, **values: Any) -> float:
    return losses_of(calm(steps=1, **values), shards)[0]


def test_class_weights_are_those_of_the_training_split(tiny):
    """By name they are what the manifest's counts say; scikit-learn agrees on the labels."""
    reader = ShardReader(tiny, "train")
    labels = torch.cat([reader[index].labels.flatten() for index in range(len(reader))]).numpy()
    labels = labels[labels != 255]
    weights = compute_class_weight("balanced", classes=np.arange(4), y=labels)
    named = first_loss(tiny, class_weights="balanced")
    assert named == first_loss(tiny, class_weights=tuple(weights))
    assert named != pytest.approx(first_loss(tiny), rel=0.01)


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


# --- model folders -----------------------------------------------------------------------------


@pytest.fixture
def saved(tiny, tmp_path) -> tuple[Path, dict[str, torch.Tensor]]:
    checkpoint, classes = last_of(row(steps=2), tiny), Manifest.read(tiny).classes
    assert checkpoint.best_weights is not None
    save_model(tmp_path / "model", checkpoint.best_weights, "fcn-tiny", row(steps=2), classes)
    return tmp_path / "model", checkpoint.best_weights


def test_a_saved_model_predicts_what_it_did(tiny, saved):
    folder, weights = saved
    loaded = load_model(folder)
    assert loaded.config == row(steps=2)
    assert loaded.classes == Manifest.read(tiny).classes
    assert not loaded.network.training
    network = build_network(row(), 4)
    network.load_state_dict(weights)
    reader = ShardReader(tiny, "val")
    for index in range(len(reader)):
        image = reader[index].image[None]
        expected = predict_labels(network.eval(), image)
        assert torch.equal(predict_labels(loaded.network, image), expected)


def test_weights_in_any_memory_layout_are_saved(tiny, saved, tmp_path):
    folder, weights = saved
    network = build_network(row(), 4).to(memory_format=torch.channels_last)
    network.load_state_dict(weights)
    state = network.state_dict()
    save_model(tmp_path / "again", state, "fcn-tiny", row(steps=2), Manifest.read(tiny).classes)
    names = sorted(path.name for path in folder.iterdir())
    assert names == ["classes.json", "config.json", "weights.safetensors"]
    for name in names:
        assert (tmp_path / "again" / name).read_bytes() == (folder / name).read_bytes()


def test_weights_of_another_class_count_are_refused(saved):
    folder, _ = saved
    table = json.loads((folder / "classes.json").read_text())
    fewer = {key: values[:3] for key, values in table.items()}
    (folder / "classes.json").write_text(json.dumps(fewer))
    with pytest.raises(InputError, match=r"with 3 classes \(.*\); train the row fcn-tiny again"):
        load_model(folder)


@pytest.mark.parametrize("kept", [0, 100, 100_000])
def test_weights_cut_short_are_refused(saved, kept):
    folder, _ = saved
    os.truncate(folder / WEIGHTS, kept)
    with pytest.raises(InputError, match=r"weights\.safetensors does not hold the weights of fcn"):
        load_model(folder)


@pytest.mark.parametrize("name", ["weights.safetensors", "config.json", "classes.json"])
def test_a_model_folder_that_lacks_a_file_is_refused(saved, name):
    folder, _ = saved
    (folder / name).unlink()
    with pytest.raises(InputError, match=name):
        load_model(folder)


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
    exact, low = (losses_of(row(steps=4, precision=p), tiny) for p in ("float32", "bfloat16"))
    assert exact != low
    assert low == pytest.approx(exact, rel=0.05)
