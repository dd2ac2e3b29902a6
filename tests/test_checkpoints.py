"""A checkpoint is whole or absent, whatever happens to its writer and to its bytes."""

import os
import signal
from pathlib import Path

import pytest
import torch
from torch import nn

from segcore.checkpoints import STATE, Checkpoint, Kept
from segcore.errors import InputError
from tests.workers import exit_code_of


def checkpoint(step: int) -> Checkpoint:
    """All weights and momenta of step n are n."""
    model = nn.Linear(300, 200).to(memory_format=torch.contiguous_format)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    model(torch.ones(1, 300)).sum().backward()
    optimizer.step()
    for parameter in model.parameters():
        nn.init.constant_(parameter, step)
        optimizer.state[parameter]["momentum_buffer"].fill_(step)
    state = {"model": model.state_dict(), "optimizer": optimizer.state_dict()}
    best = {"weight": torch.full((2, 3), step / 2, dtype=torch.bfloat16)}
    kept = (Kept(step, step / 10, best), Kept(1, step / 20, {"weight": torch.zeros(1)}))
    return Checkpoint(step, state, kept, stale=step + 1)


def assert_is(found: Checkpoint, step: int) -> None:
    plain = {"of": None}  # a name is no number
    ours, theirs = (vars(each) | plain for each in (found, checkpoint(step)))
    torch.testing.assert_close(ours, theirs, rtol=0, atol=0)


def test_round_trip(tmp_path):
    checkpoint(3).write(tmp_path / "new" / "last")
    assert_is(Checkpoint.read(tmp_path / "new" / "last"), 3)
    assert [path.name for path in tmp_path.rglob("*")] == ["new", "last", STATE]


def test_before_the_first_evaluation_there_are_no_best_weights(tmp_path):
    Checkpoint(1, {}).write(tmp_path / "last")
    found = Checkpoint.read(tmp_path / "last")
    assert (found.best_miou, found.best_weights) == (float("-inf"), None)


def test_the_first_of_those_kept_is_the_best(tmp_path):
    checkpoint(3).write(tmp_path / "last")
    found = Checkpoint.read(tmp_path / "last")
    assert found.best_miou == 0.3
    assert found.best_weights is found.kept[0].weights
    assert found.kept[1]._fields == ("step", "miou", "weights")


def test_a_newer_one_replaces_the_older(tmp_path):
    for step in (1, 2, 3):
        checkpoint(step).write(tmp_path / "last")
        assert_is(Checkpoint.read(tmp_path / "last"), step)
    assert [path.name for path in tmp_path.iterdir()] == ["last"]


def write_and_die(folder: Path, step: int, moment: str) -> None:
    """Is killed while bytes are written, or between that and a move."""

    def die(*_, **__):
        os.kill(os.getpid(), signal.SIGKILL)

    if moment == "bytes":
        write = torch.save

        def write_half(values, file):
            write(values, file)
            file.truncate(file.tell() // 2)
            file.flush()
            die()

        torch.save = write_half
    elif moment == "flush":
        os.fsync = die
    else:
        Path.replace = die
    checkpoint(step).write(folder)


@pytest.mark.parametrize("moment", ["bytes", "flush", "move"])
@pytest.mark.long
def test_a_writer_killed_inside_a_save_leaves_the_last_whole_one(tmp_path, moment):
    folder = tmp_path / "last"
    assert exit_code_of(write_and_die, folder, 1, moment) == -signal.SIGKILL
    assert not folder.exists()
    checkpoint(2).write(folder)
    assert exit_code_of(write_and_die, folder, 3, moment) == -signal.SIGKILL
    assert [path.suffix for path in tmp_path.iterdir() if path != folder] == [".part"]
    assert_is(Checkpoint.read(folder), 2)
    checkpoint(4).write(folder)
    assert_is(Checkpoint.read(folder), 4)
    assert [path.name for path in tmp_path.iterdir()] == ["last"]


@pytest.mark.parametrize("kept", [0, 1, 0.5, 0.99])
def test_one_cut_short_is_refused(tmp_path, kept):
    checkpoint(1).write(tmp_path / "last")
    file = tmp_path / "last" / STATE
    content = file.read_bytes()
    file.write_bytes(content[: int(len(content) * kept) if kept < 1 else kept])
    with pytest.raises(InputError, match=r"last is no whole checkpoint .*delete it"):
        Checkpoint.read(tmp_path / "last")


def test_one_that_is_absent_or_foreign_is_refused(tmp_path):
    with pytest.raises(InputError, match="nowhere is no whole checkpoint"):
        Checkpoint.read(tmp_path / "nowhere")
    torch.save({"weights": torch.ones(2)}, tmp_path / STATE)
    with pytest.raises(InputError, match="no whole checkpoint"):
        Checkpoint.read(tmp_path)


class Trap:
    def __reduce__(self):
        return os.mkdir, ("sprung",)


def test_reading_runs_no_code(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"step": 1, "state": Trap()}, tmp_path / STATE)
    with pytest.raises(InputError, match="no whole checkpoint"):
        Checkpoint.read(tmp_path)
    assert not (tmp_path / "sprung").exists()
