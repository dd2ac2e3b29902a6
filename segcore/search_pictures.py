"""What a search tried, as charts: PNG files that are equal for equal searches."""

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from segcore.files import written_whole
from segcore.pictures import SCORE, Axis, scored_trials, search_axes

BLUE, GREY, ORANGE = "#1f6fb2", "#8a94a3", "#c8511b"


def search_history(search: dict[str, Any], path: Path) -> None:
    """Draws the best mIoU so far by trial; hollow points are trials that were stopped early."""
    trials = scored_trials(search)
    figure = Figure(figsize=(7, 4), dpi=120, layout="constrained")
    chart = figure.subplots()
    scores = [100 * trial["miou"] for trial in trials]
    numbers = range(1, len(trials) + 1)
    for number, score, trial in zip(numbers, scores, trials, strict=True):
        fill = "white" if trial["status"] == "stopped" else BLUE
        chart.scatter(number, score, c=fill, edgecolors=BLUE, zorder=3)
    chart.step(numbers, np.maximum.accumulate(scores), where="post", c=BLUE, lw=2.2)
    chart.xaxis.set_major_locator(MaxNLocator(integer=True))
    title = "Best so far (hollow: stopped early)"
    chart.set(xlabel="trial", ylabel=f"validation {SCORE}", title=title)
    _save_figure(figure, path)


def early_stopping(search: dict[str, Any], path: Path) -> None:
    """Draws every trial's mIoU by step, the best one in blue, a cross where it was stopped."""
    trials = scored_trials(search)
    best = max(trials, key=lambda trial: trial["miou"])
    figure = Figure(figsize=(7, 4), dpi=120, layout="constrained")
    chart = figure.subplots()
    for trial in trials:
        colour, width, order = (BLUE, 2.2, 3) if trial is best else (GREY, 1, 2)
        steps, scores = np.array(trial["history"], dtype=float).reshape(-1, 2).T
        chart.plot(steps, 100 * scores, c=colour, lw=width, zorder=order, marker=".")
        if trial["status"] == "stopped":
            chart.plot(steps[-1:], 100 * scores[-1:], c=ORANGE, marker="x", ms=8, zorder=4)
    taken = sum(trial["steps"] for trial in trials)
    share = taken / (len(trials) * max(trial["steps"] for trial in trials))
    title = f"{taken} steps, {share:.0%} of those without stopping (crosses)"
    chart.set(xlabel="step", ylabel=f"validation {SCORE}", title=title)
    _save_figure(figure, path)


def parallel_coordinates(search: dict[str, Any], path: Path) -> None:
    """Draws one line per trial through its values, coloured by mIoU, dotted where it was stopped.

    A line passes by the axis of a key that its trial did not have.
    """
    axes = search_axes(search)
    figure = Figure(figsize=(max(6, 2.2 * len(axes)), 4.4), dpi=120, layout="constrained")
    chart = figure.subplots()
    for trial in sorted(scored_trials(search), key=lambda trial: trial["miou"]):
        values = trial["values"] | {SCORE: 100 * trial["miou"]}
        places = [place for place, key in enumerate(axes) if key in values]
        heights = [axis.at(values[key]) for key, axis in axes.items() if key in values]
        colour = colormaps["viridis_r"](axes[SCORE].at(100 * trial["miou"]))
        dashes = ":" if trial["status"] == "stopped" else "-"
        chart.plot(places, heights, dashes, color=colour, lw=1.8)
    for position, (name, axis) in enumerate(axes.items()):
        _draw_vertical_axis(chart, position, name, axis)
    chart.set(xlim=(-0.5, len(axes) - 0.7), ylim=(-0.06, 1.16))
    chart.axis("off")
    _save_figure(figure, path)


def importances(search: dict[str, Any], path: Path) -> None:
    """Draws what share of the search's success each key decided, from the most important."""
    shares = search["importance"]
    ranked = sorted(shares, key=lambda key: shares[key])
    figure = Figure(figsize=(7, 1.4 + 0.4 * len(ranked)), dpi=120, layout="constrained")
    chart = figure.subplots()
    chart.barh(range(len(ranked)), [100 * shares[key] for key in ranked], color=BLUE)
    for position, key in enumerate(ranked):
        text = f" {100 * shares[key]:.0f} %"
        chart.text(100 * shares[key], position, text, va="center", size=9)
    chart.set_yticks(range(len(ranked)), ranked, parse_math=False)
    title = "Importance of each key for a good trial (PED-ANOVA)"
    chart.set(xlabel="share %", xlim=(0, 110), title=title)
    _save_figure(figure, path)


def latency_front(search: dict[str, Any], path: Path) -> None:
    """Draws mIoU by latency of every trial; the Pareto front is joined by a line."""
    trials = scored_trials(search)
    figure = Figure(figsize=(7, 4), dpi=120, layout="constrained")
    chart = figure.subplots()
    for trial in trials:
        fill = BLUE if trial["id"] in search["front"] else "white"
        place = trial["latency_ms"], 100 * trial["miou"]
        chart.scatter(*place, c=fill, edgecolors=BLUE, zorder=3)
        chart.annotate(trial["id"], place, xytext=(5, 4), textcoords="offset points", size=8)
    front = sorted(
        (trial["latency_ms"], 100 * trial["miou"])
        for trial in trials
        if trial["id"] in search["front"]
    )
    chart.step(*zip(*front, strict=True), where="post", c=BLUE, lw=1.5)
    title = "Accuracy against speed (filled: no trial is better in both)"
    chart.set(xlabel="latency, ms", ylabel=f"validation {SCORE}", title=title)
    _save_figure(figure, path)


def _draw_vertical_axis(chart: Axes, position: int, name: str, axis: Axis) -> None:
    chart.plot([position, position], [0, 1], color="#5c6470", lw=1)
    title = f"{name} (log)" if axis.log else name
    chart.text(position, 1.08, title, ha="center", weight="bold", parse_math=False)
    behind = {"facecolor": "white", "edgecolor": "none", "pad": 0.5}  # lines pass under the text
    side = {"ha": "right", "va": "center", "size": 9, "zorder": 4, "bbox": behind}
    for height, text in axis.ticks():
        chart.plot([position - 0.02, position], [height, height], color="#5c6470", lw=1)
        chart.text(position - 0.04, height, text, parse_math=False, **side)


def _save_figure(figure: Figure, path: Path) -> None:
    with written_whole(path) as aside:  # no software version inside: equal input, equal bytes
        figure.savefig(aside, format="png", metadata={"Software": None})
