"""CamVid from nothing: every method can be meant, a course is read right, a short one runs."""

from argparse import Namespace
from pathlib import Path

import pytest
from PIL import Image

from benchmarks import camvid
from benchmarks.camvid import Course, compared, course_of, run_of, trained
from segcore.journal import read_lines
from segcore.models import list_methods
from segcore.row import Run
from segcore.runs import check
from segcore.training import Saved

ASKED = Namespace(backbone="resnet18", steps=40, device="cpu", threads=1, loader_workers=0, seed=3)
ARGUMENTS = ["--backbone", "resnet10t", "--steps", "4", "--device", "cpu", "--threads", "1"]


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(camvid.RECIPE, "crop", [48, 48])
    monkeypatch.setitem(camvid.RECIPE, "batch_size", 4)
    monkeypatch.setattr(camvid, "EVALUATIONS", 2)


def test_every_method_can_be_trained_on_the_backbone():
    methods = compared()
    assert len(methods) == len(list_methods()) - 1 == 17
    assert "segfix" not in methods
    for method in methods:
        run = run_of(method, ASKED)
        check(run, 11)
        assert (run.steps, run.evaluate_every, run.save_every, run.seed) == (40, 2, 2, 3)


def test_a_method_that_needs_coarse_features_has_them():
    assert run_of("bisenet", ASKED).output_stride is None
    assert run_of("pspnet", ASKED).output_stride == 8


def made_up(run: Run) -> Course:
    losses = [(step, float(step)) for step in range(1, 41)]
    evaluations = [(20, 0.25), (40, 0.5)]
    return Course(run, 8, 2_500_000, evaluations, losses, [1.0, 2.0, 4.0])


def test_the_cells_and_the_mean_losses_by_hand():
    run = run_of("fcn", ASKED).model_copy(update={"evaluate_every": 20, "batch_size": 16})
    course = made_up(run)
    assert course.cells() == ["fcn", "8", "2.5", "50.00", "40", "50.00", "8.0"]
    assert course.mean_losses() == [(20, 10.5), (40, 30.5)]


@pytest.mark.long
def test_it_runs_for_real_at_a_tiny_size(
    tiny: str, tmp_path: Path, small: None, capsys: pytest.CaptureFixture[str]
):
    path = tmp_path / "camvid.md"
    places = ["--shards", tiny, "--work", str(tmp_path / "work"), "--output", str(path)]
    arguments = ["fcn", "bisenet", *ARGUMENTS, "--loader-workers", "0", *places]
    camvid.main(arguments)
    rows = [line.split(" | ") for line in path.read_text().splitlines() if line.startswith("| ")]
    assert [row[0] for row in rows[:2]] == ["| method", "| ---"]
    assert {(row[0], row[1]) for row in rows[2:]} == {("| fcn", "8"), ("| bisenet", "32")}
    scores = [float(row[3]) for row in rows[2:]]
    assert scores == sorted(scores, reverse=True)
    assert all(0 < score < 100 for score in scores)
    assert {int(row[4]) for row in rows[2:]} <= {2, 4}
    assert "![validation mIoU and training loss by step](camvid.png)" in path.read_text()
    with Image.open(tmp_path / "camvid.png") as picture:
        assert picture.width > picture.height > 200
    capsys.readouterr()
    first, drawn = path.read_bytes(), (tmp_path / "camvid.png").read_bytes()
    camvid.main(arguments)  # all is there: nothing is trained again
    assert path.read_bytes() == first
    assert (tmp_path / "camvid.png").read_bytes() == drawn


@pytest.mark.long
def test_a_course_that_was_cut_off_goes_on(
    tiny: str, tmp_path: Path, small: None, monkeypatch: pytest.MonkeyPatch
):
    asked = Namespace(**vars(ASKED) | {"backbone": "resnet10t", "steps": 4})
    run = run_of("fcn", asked)
    whole = trained(run, tiny, tmp_path / "whole")
    train = camvid.train

    def cut(*arguments):
        for event in train(*arguments):
            yield event
            if isinstance(event, Saved):
                return

    with monkeypatch.context() as patch:
        patch.setattr(camvid, "train", cut)
        part = trained(run, tiny, tmp_path / "part")
    assert [step for step, _ in part.evaluations] == [2]
    again = trained(run, tiny, tmp_path / "part")
    assert again.evaluations == whole.evaluations
    assert again.losses == whole.losses
    assert [step for step, _ in again.losses] == [1, 2, 3, 4]
    assert len(read_lines(tmp_path / "part" / "metrics.jsonl")) == 6
    assert course_of(run, tiny, tmp_path / "part" / "metrics.jsonl") == again
    assert again.parameters == whole.parameters > 10**6
