"""``metrics.jsonl``: every step once, through resumes and kills."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from segcore.checkpoints import Checkpoint
from segcore.journal import Journal, read_lines
from segcore.metrics import Scores
from segcore.training import Evaluated, Saved, Step

SCORES = Scores(np.array([[3, 1], [2, 4]]))


@contextmanager
def journal(path: Path, resumed_at: int = 0) -> Iterator[Journal]:
    opened = Journal(path, resumed_at)
    try:
        yield opened
    finally:
        opened.file.close()


def step(number: int, loss: float = 1.0) -> Step:
    return Step(number, loss, 0.01, 0.123456, 0.00001)


def numbers(path: Path) -> list[tuple[str, int]]:
    return [(line["event"], line["step"]) for line in read_lines(path)]


def test_a_step_and_an_evaluation_become_a_line_each_and_a_save_none(tmp_path: Path):
    path = tmp_path / "metrics.jsonl"
    with journal(path) as opened:
        opened.record(step(1, 0.1 + 0.2))
        opened.record(Evaluated(1, SCORES, 0.5, True))
        opened.record(Saved(1, Checkpoint(1, {})))
    first, second = (json.loads(line) for line in path.read_text().splitlines())
    assert first == {
        "event": "step",
        "step": 1,
        "loss": 0.1 + 0.2,  # to the last bit
        "learning_rate": 0.01,
        "seconds": 0.1235,
        "data_seconds": 0.0,
    }
    assert second == {
        "event": "evaluated",
        "step": 1,
        "miou": pytest.approx((3 / 6 + 4 / 7) / 2),
        "pixel_accuracy": pytest.approx(7 / 10),
        "mean_accuracy": pytest.approx((3 / 4 + 4 / 6) / 2),
        "evaluation_seconds": 0.5,
    }


def test_a_skipped_step_says_so_and_gives_no_figure_that_json_has_no_word_for(tmp_path: Path):
    path = tmp_path / "metrics.jsonl"
    with journal(path) as opened:
        opened.record(Step(1, float("nan"), 0.01, 0.5, 0.0, skipped=True))
        opened.record(Step(2, 3.5, 0.01, 0.5, 0.0, skipped=True))  # its gradient was not finite
    lines = [json.loads(text, parse_constant=pytest.fail) for text in path.read_text().splitlines()]
    rest = {"learning_rate": 0.01, "seconds": 0.5, "data_seconds": 0.0, "skipped": 1}
    assert lines == [
        {"event": "step", "step": 1, **rest},
        {"event": "step", "step": 2, "loss": 3.5, **rest},
    ]


def test_each_line_is_on_disk_at_once(tmp_path: Path):
    path = tmp_path / "metrics.jsonl"
    with journal(path) as opened:
        for number in (1, 2, 3):
            opened.record(step(number))
            assert numbers(path)[-1] == ("step", number)


def test_a_resume_drops_what_will_be_repeated(tmp_path: Path):
    path = tmp_path / "metrics.jsonl"
    with journal(path) as opened:
        for number in range(1, 6):
            opened.record(step(number, loss=0.5))
            if number % 2 == 0:
                opened.record(Evaluated(number, SCORES, 0.1, True))
    with journal(path, resumed_at=2) as opened:
        for number in (3, 4):
            opened.record(step(number, loss=0.25))
    assert numbers(path) == [("step", 1), ("step", 2), ("evaluated", 2), ("step", 3), ("step", 4)]
    losses = [line["loss"] for line in read_lines(path) if line["event"] == "step"]
    assert losses == [0.5, 0.5, 0.25, 0.25]


def test_a_training_from_the_start_begins_an_empty_file(tmp_path: Path):
    path = tmp_path / "metrics.jsonl"
    for _ in range(2):
        with journal(path) as opened:
            opened.record(step(1))
    assert numbers(path) == [("step", 1)]


@pytest.mark.parametrize("cut", [2, 20, 60])
def test_a_line_that_a_kill_cut_short_is_dropped(tmp_path: Path, cut: int):
    path = tmp_path / "metrics.jsonl"
    with journal(path) as opened:
        for number in (1, 2, 3):
            opened.record(step(number))
    path.write_text(path.read_text()[:-cut])
    assert numbers(path) == [("step", 1), ("step", 2)]
    with journal(path, resumed_at=3) as opened:
        opened.record(step(4))
    assert numbers(path) == [("step", 1), ("step", 2), ("step", 4)]


def test_where_there_is_no_file_there_are_no_lines(tmp_path: Path):
    assert read_lines(tmp_path / "metrics.jsonl") == []
