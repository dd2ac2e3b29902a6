"""Pictures: pixel values by hand, axes against closed forms, files read back."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from segcore.errors import InputError
from segcore.pictures import (
    STRIP_GAP,
    VOID_COLOUR,
    Axis,
    best_median_worst,
    colour_key,
    label_png,
    overlay,
    save_png,
    search_axes,
    strip,
)
from segcore.types import IGNORE, ClassTable

CLASSES = ClassTable(("sky", "road"), ((0, 100, 200), (250, 10, 30)), (0, 1))


def flat_image(height: int, width: int, value: int = 40) -> torch.Tensor:
    return torch.full((3, height, width), value, dtype=torch.uint8)


def a_search(trials: int) -> dict:
    space = {
        "learning_rate": {"loguniform": [1e-4, 1e-1]},
        "optimizer": {"choice": ["sgd", "adamw"]},
        "flip": {"uniform": [0.0, 0.5]},
        "warmup_steps": {"int": [0, 40]},
    }
    listed = [
        {
            "id": f"{i:05d}",
            "values": {
                "learning_rate": 10 ** (-4 + 3 * i / max(1, trials - 1)),
                "optimizer": ["sgd", "adamw"][i % 2],
                "flip": 0.5 * (i % 3) / 2,
                "warmup_steps": i % 41,
            },
            "miou": 0.3 + 0.3 * math.sin(i) ** 2,
            "steps": 20,
            "status": "stopped" if i % 3 else "finished",
            "history": [[10, 0.2], [20, 0.3 + 0.3 * math.sin(i) ** 2]],
        }
        for i in range(trials)
    ]
    return {"metric": "miou", "space": space, "best": listed[0]["values"], "trials": listed}


def test_overlay_mixes_by_hand_and_keeps_ignored_pixels() -> None:
    labels = torch.tensor([[0, 1, IGNORE]], dtype=torch.uint8)
    mixed = overlay(flat_image(1, 3), labels, CLASSES, opacity=0.25)
    # 0.75 * 40 + 0.25 * colour
    assert mixed[:, 0, 0].tolist() == [30, 55, 80]
    assert mixed[:, 0, 1].tolist() == [92, 32, 38]  # 92.5 and 32.5 round to even, 37.5 as well
    assert mixed[:, 0, 2].tolist() == [40, 40, 40]


@pytest.mark.parametrize(("opacity", "expected"), [(0.0, [40, 40, 40]), (1.0, [0, 100, 200])])
def test_overlay_at_its_ends(opacity: float, expected: list[int]) -> None:
    labels = torch.zeros(1, 1, dtype=torch.uint8)
    assert overlay(flat_image(1, 1), labels, CLASSES, opacity)[:, 0, 0].tolist() == expected


def test_a_label_outside_the_table_is_named() -> None:
    with pytest.raises(InputError, match=r"labels \[2, 7\] are outside"):
        overlay(flat_image(1, 3), torch.tensor([[2, 0, 7]], dtype=torch.uint8), CLASSES)


def test_strip_holds_three_panels() -> None:
    labels = torch.zeros(2, 5, dtype=torch.uint8)
    predicted = torch.ones(2, 5, dtype=torch.uint8)
    image = flat_image(2, 5)
    joined = strip(image, labels, predicted, CLASSES)
    assert joined.shape == (3, 2, 15 + 2 * STRIP_GAP)
    assert torch.equal(joined[..., :5], image)
    assert joined[..., 5 : 5 + STRIP_GAP].min() == 255
    assert torch.equal(joined[..., 5 + STRIP_GAP : 10 + STRIP_GAP], overlay(image, labels, CLASSES))
    assert torch.equal(joined[..., -5:], overlay(image, predicted, CLASSES))


def test_label_png_reads_back_as_indices_and_as_colours(tmp_path: Path) -> None:
    labels = torch.tensor([[0, 1], [IGNORE, 1]], dtype=torch.uint8)
    label_png(labels, CLASSES, tmp_path / "labels.png")
    with Image.open(tmp_path / "labels.png") as image:
        assert image.mode == "P"
        assert np.asarray(image).tolist() == labels.tolist()
        colours = np.asarray(image.convert("RGB"))
    assert tuple(colours[0, 0]) == CLASSES.colours[0]
    assert tuple(colours[0, 1]) == CLASSES.colours[1]
    assert tuple(colours[1, 0]) == VOID_COLOUR


def test_save_png_reads_back(tmp_path: Path) -> None:
    picture = torch.arange(3 * 4 * 5, dtype=torch.uint8).reshape(3, 4, 5)
    save_png(picture, tmp_path / "below" / "picture.png")
    with Image.open(tmp_path / "below" / "picture.png") as image:
        assert np.array_equal(np.asarray(image), picture.permute(1, 2, 0).numpy())
    assert [path.name for path in (tmp_path / "below").iterdir()] == ["picture.png"]


@pytest.mark.parametrize("columns", [1, 2])
def test_colour_key_shows_each_colour_in_order(columns: int) -> None:
    key = colour_key(CLASSES, columns)
    places = [(15, 15), (15 + 22, 15)] if columns == 1 else [(15, 15), (15, 15 + key.shape[2] // 2)]
    for (row, column), colour in zip(places, CLASSES.colours, strict=True):
        assert tuple(key[:, row, column].tolist()) == colour
    text = key[:, 8:30, 30 : key.shape[2] // columns]
    assert text.min() < 100  # a name is written beside the colour


def test_best_median_worst_of_five_and_of_none() -> None:
    scores = {"a": 0.5, "b": 0.9, "c": 0.1, "d": 0.7, "e": 0.3}
    listed = [{"id": name, "miou": score} for name, score in scores.items()]
    shown = best_median_worst([*listed, {"id": "void", "miou": None}])
    assert {kind: entry["id"] for kind, entry in shown.items()} == {
        "best": "b",
        "median": "a",
        "worst": "c",
    }
    assert best_median_worst([{"id": "void", "miou": None}]) == {}


def test_axis_positions() -> None:
    assert Axis(10, 20).at(12.5) == 0.25
    assert Axis(1e-4, 1e-2, log=True).at(1e-3) == pytest.approx(0.5)
    assert Axis(3, 3).at(3) == 0.5
    choices = Axis.of_space({"choice": ["sgd", "adamw", [96, 128], None]})
    assert [choices.at(value) for value in ("sgd", [96, 128], None)] == [0.125, 0.625, 0.875]
    assert Axis.of_space({"loguniform": [1e-4, 1e-1]}).at(1e-2) == pytest.approx(2 / 3)
    assert Axis.of_space({"int": [0, 40]}).at(10) == 0.25


@pytest.mark.parametrize(
    ("axis", "texts"),
    [
        (Axis(0, 600), ["0", "100", "200", "300", "400", "500", "600"]),
        (Axis(1e-4, 1e-1, log=True), ["0.0001", "0.001", "0.01", "0.1"]),
        (Axis(0.01, 0.05, log=True), ["0.01", "0.02", "0.05"]),
        (Axis(0, 3, whole=True), ["0", "1", "2", "3"]),
        (Axis(choices=("sgd", "adamw")), ["sgd", "adamw"]),
    ],
)
def test_axis_ticks(axis: Axis, texts: list[str]) -> None:
    ticks = axis.ticks()
    assert [text for _, text in ticks] == texts
    for at, text in ticks:
        assert at == pytest.approx(axis.at(text if axis.choices else float(text)), abs=1e-9)


def test_spanning_contains_its_values() -> None:
    for values in ([0.3], [0.0], [-2.0, 5.0], [1, 12]):
        axis = Axis.spanning(values)
        assert 0 < axis.at(min(values)) <= axis.at(max(values)) < 1
    assert Axis.spanning([2.0, 4.0], zero=True).low == 0
    log = Axis.spanning([0.01, 1.0], log=True)
    assert log.at(0.1) == pytest.approx(0.5)


def test_search_axes_follow_the_space_and_end_with_the_score() -> None:
    axes = search_axes(a_search(5))
    assert list(axes) == ["learning_rate", "optimizer", "flip", "warmup_steps", "mIoU %"]
    assert axes["learning_rate"].log
    assert axes["warmup_steps"].whole
