"""Trainings that are killed and go on: exactly, and safely on another number of workers.

The adapter here is the plainest there is: a process that writes checkpoints and a journal.
"""

import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch

import segcore.runs
from segcore.checkpoints import Checkpoint
from segcore.journal import Journal, read_lines
from segcore.row import Run
from segcore.runs import train
from segcore.training import Saved, Step
from tests.tiny_training import hash_of, row, unequal
from tests.workers import exit_code_of, run_workers

ROWS: dict[str, dict[str, Any]] = {
    "plain": {},
    "full": {
        "precision": "float16",
        "clip_norm": 1.0,
        "ema_decay": 0.9,
        "bias_multiplier": 2.0,
        "decay_all": False,
        "max_skipped": 2,
        "keep_best": 2,
        "patience": 9,
    },
}
STEPS = 9
SAVES, EVALUATIONS = 3, 4
MOMENTS = (
    *("step 1", "step 2", "step 4", "evaluation 4", "step 5"),
    *("bytes 6", "flush 6", "step 7", "move 9", "saved 9"),
)
"""After a step, inside an evaluation, and inside a save: while bytes are written, before they are
known to be on disk, before they take their name; and once all is done but the farewell."""
QUICK = {("plain", "bytes 6"), ("full", "step 7")}


def run_of(kind: str) -> Run:
    """Everything random is on: augmentation, dropout, two loader workers."""
    times = {"steps": STEPS, "save_every": SAVES, "evaluate_every": EVALUATIONS}
    return row(loader_workers=2, **times, **ROWS[kind])


def die(*_: object, **__: object) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def train_in(folder: Path, run: Run, shards: str, moment: str = "") -> None:
    """Trains from the checkpoint in ``folder``, if there is one, and is killed at ``moment``."""
    last, what = folder / "last", moment.rpartition(" ")[0]
    resumed = Checkpoint.read(last).step if last.exists() else 0
    journal = Journal(folder / "metrics.jsonl", resumed)
    for event in train(run, shards, last if resumed else None):
        journal.record(event)
        due = moment.endswith(f" {event.number}")
        if isinstance(event, Step) and due:
            if what == "step":
                die()
            if what == "evaluation":
                segcore.runs.evaluate = die
        if isinstance(event, Saved):
            if due:
                _be_killed_inside_a_save(what)
            event.checkpoint.write(last)
            if due and what == "saved":
                die()
    journal.file.close()


def _be_killed_inside_a_save(what: str) -> None:
    if what == "bytes":
        write = torch.save

        def write_half(values: Any, file: Any) -> None:
            write(values, file)
            file.truncate(file.tell() // 2)
            file.flush()
            die()

        torch.save = write_half
    if what == "flush":
        os.fsync = die
    if what == "move":
        Path.replace = die


def log_of(folder: Path) -> list[dict[str, Any]]:
    """The metric log without what a clock says."""
    lines = read_lines(folder / "metrics.jsonl")
    return [{k: v for k, v in line.items() if not k.endswith("seconds")} for line in lines]


@pytest.fixture(scope="module")
def never_stopped(tiny: str, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The folder of a training of each kind that nothing befell, made when first asked for."""
    folders = dict[str, Path]()

    def of(kind: str) -> Path:
        if kind not in folders:
            folder = tmp_path_factory.mktemp(kind)
            assert exit_code_of(train_in, folder, run_of(kind), tiny) == 0
            folders[kind] = folder
        return folders[kind]

    return of


def moments() -> list[Any]:
    found = []
    for kind in ROWS:
        for moment in MOMENTS:
            mark = pytest.mark.long if (kind, moment) in QUICK else pytest.mark.slow
            found.append(pytest.param(kind, moment, marks=mark, id=f"{kind}-{moment}"))
    return found


@pytest.mark.parametrize(("kind", "moment"), moments())
def test_killed_and_resumed_is_never_stopped(tiny, tmp_path, never_stopped, kind, moment):
    straight, run = never_stopped(kind), run_of(kind)
    assert exit_code_of(train_in, tmp_path, run, tiny, moment) == -signal.SIGKILL
    what, number = moment.split()
    is_half = what in ("bytes", "flush", "move")
    assert len(list(tmp_path.glob(".last.*.part"))) == is_half
    saved = SAVES * ((int(number) - (what != "saved")) // SAVES)
    assert (tmp_path / "last").exists() == (saved > 0)
    if saved:
        assert Checkpoint.read(tmp_path / "last").step == saved
    assert exit_code_of(train_in, tmp_path, run, tiny) == 0
    assert [line["step"] for line in log_of(tmp_path) if line["event"] == "step"] == [
        *range(1, STEPS + 1)
    ]
    assert log_of(tmp_path) == log_of(straight)
    found, expected = (Checkpoint.read(folder / "last") for folder in (tmp_path, straight))
    assert hash_of(found.state["model"]) == hash_of(expected.state["model"])
    assert found.of == expected.of
    ours, theirs = (vars(each) | {"of": None} for each in (found, expected))
    torch.testing.assert_close(ours, theirs, rtol=0, atol=0)


def test_a_full_training_holds_all_that_may_be_lost(tiny):
    """So that what the test above compares is there."""
    state = next(e for e in train(run_of("full"), tiny) if isinstance(e, Saved)).checkpoint.state
    assert list(state) == ["model", "optimizer", "schedule", "updates", "average"]
    assert state["updates"]["scaler"]["scale"] > 1
    assert len(state["optimizer"]["param_groups"]) == 5  # no convolution of its backbone has a bias
    moved = [not torch.equal(state["average"][k], v) for k, v in state["model"].items()]
    assert sum(moved) > len(moved) / 2


# --- on another number of workers ----------------------------------------------------------------

HALF = 10
ALL = 20


def moved(workers: int) -> Run:
    options = {"clip_norm": 5.0, "ema_decay": 0.9}
    return unequal(workers=workers, save_every=HALF, **options)


def part_of(
    run: Run, shards: str, folder: Path, from_checkpoint: bool
) -> tuple[list[float], list[tuple[str, ...]]]:
    """Losses and this worker's samples, step by step; a first part ends with its first save."""
    samples, fit = list[tuple[str, ...]](), segcore.runs.fit

    def noting(model: Any, batches: Any, *rest: Any) -> Any:
        def noted() -> Any:
            for batch in batches:
                samples.append(batch.ids)
                yield batch

        return fit(model, noted(), *rest)

    losses = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(segcore.runs, "fit", noting)
        for event in train(run, shards, folder if from_checkpoint else None):
            if isinstance(event, Step):
                losses.append(event.loss)
            if isinstance(event, Saved) and not from_checkpoint and event.number == HALF:
                if segcore.runs.rank() == 0:
                    event.checkpoint.write(folder)
                if segcore.runs.world_size() > 1 or run.steps > HALF:
                    break
    return losses, samples


def joined(parts: list[Any]) -> tuple[list[float], list[tuple[str, ...]]]:
    """What several workers saw, as one would have."""
    losses = [each[0] for each in parts]
    assert all(each == losses[0] for each in losses)
    return losses[0], [sum(shares, ()) for shares in zip(*(each[1] for each in parts), strict=True)]


@pytest.fixture(scope="module")
def whole(tiny: str, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """One worker, never moved."""
    folder = tmp_path_factory.mktemp("whole") / "last"
    first = part_of(moved(1), tiny, folder, from_checkpoint=False)
    second = part_of(moved(1), tiny, folder, from_checkpoint=True)
    losses, samples = ([*a, *b] for a, b in zip(first, second, strict=True))
    return folder, losses, samples


@pytest.mark.long
@pytest.mark.parametrize(("before", "after"), [(1, 2), (2, 1)])
def test_another_number_of_workers_goes_on_with_the_same_batches(
    tiny, tmp_path, whole, before, after
):
    folder, losses, samples = whole
    if before == 2:
        folder = tmp_path / "last"
        first = joined(run_workers(2, part_of, moved(2), tiny, folder, False))
    else:
        first = losses[:HALF], samples[:HALF]
    assert Checkpoint.read(folder).step == HALF
    if after == 2:
        second = joined(run_workers(2, part_of, moved(2), tiny, folder, True))
    else:
        second = part_of(moved(1), tiny, folder, from_checkpoint=True)
    found_losses, found_samples = ([*a, *b] for a, b in zip(first, second, strict=True))
    assert len(found_losses) == ALL
    assert found_losses == pytest.approx(losses, rel=1e-5)
    assert found_samples == samples
    in_order = sum(found_samples, ())
    for start in range(0, len(in_order) - 7, 8):  # eight images are an epoch: none comes twice
        assert len(set(in_order[start : start + 8])) == 8
