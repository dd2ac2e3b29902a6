"""Pictures of scores, for places that show files, such as MLflow's page of a run."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from segcore.files import written_whole

CLASS_INCHES, MOST_INCHES = 0.32, 24.0
NUMBERED = 24
"""Matrices of more classes have no numbers in their cells."""


def draw_confusion(counts: Sequence[Sequence[int]], classes: Sequence[str], path: Path) -> None:
    """Writes what became of each class's pixels, in percent, as a PNG: a line per labelled class,
    a column per predicted one."""
    matrix = np.array(counts, dtype=float)
    shares = 100 * matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    side = min(2.5 + CLASS_INCHES * len(classes), MOST_INCHES)
    figure = Figure(figsize=(side, side), layout="constrained")
    chart = figure.subplots()
    chart.imshow(shares, cmap="Blues", vmin=0, vmax=100)
    places = range(len(classes))
    size = min(8.0, 72 * side / len(classes) / 2)
    chart.set_xticks(places, classes, rotation=90, fontsize=size, parse_math=False)
    chart.set_yticks(places, classes, fontsize=size, parse_math=False)
    chart.set_xlabel("predicted")
    chart.set_ylabel("labelled, 100 % in each line")
    if len(classes) <= NUMBERED:
        for (line, column), share in np.ndenumerate(shares):
            if share >= 0.5:
                colour = "white" if share > 50 else "black"
                text = f"{share:.0f}"
                chart.text(column, line, text, ha="center", va="center", color=colour, fontsize=7)
    with written_whole(path) as aside:
        figure.savefig(aside, format="png", dpi=110)
