"""What a training leaves in its folder: the newest checkpoints, a journal, and why it ended."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipelines.cluster.recording import (
    LAST_WORDS,
    REFUSAL,
    checkpoint_of,
    forget,
    newest,
    noted,
    noting,
    recorded,
    step_of,
)
from segcore.checkpoints import Checkpoint
from segcore.errors import InputError
from segcore.training import Event, Saved, Step


def trained(first: int, last: int) -> Iterator[Event]:
    """A save after every second step."""
    for number in range(first, last + 1):
        yield Step(number, 1 / number, 0.1, 0.5, 0.0)
        if number % 2 == 0:
            yield Saved(number, Checkpoint(number, {}))


def kept(folder: Path) -> list[int]:
    return sorted(step_of(path) for path in folder.glob("step-*"))


def test_the_newest_two_checkpoints_stay_and_the_one_that_others_start_from(tmp_path: Path):
    assert newest(tmp_path) is None
    for event in recorded(trained(1, 8), tmp_path, 60.0):
        if isinstance(event, Saved):  # it is whole before anyone is told
            assert Checkpoint.read(checkpoint_of(tmp_path, event.number)).step == event.number
    assert kept(tmp_path) == [6, 8]
    assert newest(tmp_path) == checkpoint_of(tmp_path, 8)
    assert newest(tmp_path, after=8) is None
    list(recorded(trained(9, 14), tmp_path, 60.0, keep=8))
    assert kept(tmp_path) == [8, 12, 14]


def test_a_journal_goes_on_where_the_training_does(tmp_path: Path):
    list(recorded(trained(1, 5), tmp_path, 60.0))
    list(recorded(trained(5, 6), tmp_path, 60.0))
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [(line["step"], line["loss"]) for line in lines] == [(n, 1 / n) for n in range(1, 7)]


def test_why_a_worker_ended_is_noted_and_forgotten(tmp_path: Path):
    with pytest.raises(InputError), noting(tmp_path):
        raise InputError("a value that cannot be; change it")
    assert noted(tmp_path, REFUSAL) == "a value that cannot be; change it"
    assert noted(tmp_path, LAST_WORDS) == ""
    with pytest.raises(ZeroDivisionError), noting(tmp_path):
        print(1 / 0)
    assert noted(tmp_path, LAST_WORDS) == "ZeroDivisionError: division by zero"
    forget(tmp_path)
    assert [noted(tmp_path, name) for name in (REFUSAL, LAST_WORDS)] == ["", ""]
