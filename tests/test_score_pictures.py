"""The confusion matrix as a picture: its cells are as dark as the shares are large."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from segcore.score_pictures import draw_confusion


@pytest.mark.parametrize("classes", [2, 30])
def test_cells_are_as_dark_as_shares_are_large(tmp_path: Path, classes: int):
    """All of each class is taken for the last one: its column is the darkest blue there is."""
    counts = np.zeros((classes, classes), int)
    counts[:, -1] = 7
    names = [f"class {number} of $" for number in range(classes)]
    draw_confusion(counts.tolist(), names, tmp_path / "confusion.png")
    with Image.open(tmp_path / "confusion.png") as picture:
        pixels = np.asarray(picture.convert("RGB")).astype(int)
    darkest = (np.abs(pixels - [8, 48, 107]).sum(-1) < 6).sum(axis=0)  # the last of "Blues"
    columns = np.flatnonzero(darkest > pixels.shape[0] / 4)
    cell = (columns[-1] - columns[0] + 1) / pixels.shape[1]
    assert 0.2 / classes < cell < 1 / classes
    lightest = (np.abs(pixels - [247, 251, 255]).sum(-1) < 6).any(axis=0)
    assert np.flatnonzero(lightest)[-1] < columns[0]  # what is empty lies to the left


def test_a_class_that_is_absent_has_an_empty_line(tmp_path: Path):
    draw_confusion([[3, 0], [0, 0]], ["here", "absent"], tmp_path / "confusion.png")
    assert (tmp_path / "confusion.png").stat().st_size > 1000
