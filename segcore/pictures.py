"""What a person looks at: coloured labels, overlays, colour keys, and pictures of a search."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import torch
from jaxtyping import UInt8
from matplotlib.ticker import LogLocator, MaxNLocator
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from segcore.errors import InputError
from segcore.files import written_whole
from segcore.types import IGNORE, ClassTable

Number = int | float  # JSON writes 1.0 as 1 at times

Picture = UInt8[Tensor, "3 h w"]
"""RGB, 0 to 255."""

LabelMap = UInt8[Tensor, "h w"]
"""Train ids, or IGNORE."""

VOID_COLOUR = (224, 224, 192)
"""How IGNORE shows in a label file: the cream of the PASCAL VOC label files."""

SCORE = "mIoU %"
STRIP_GAP = 4  # white pixels between its panels


def overlay(
    image: Picture, labels: LabelMap, classes: ClassTable, opacity: Number = 0.65
) -> Picture:
    """The image under the class colours; IGNORE pixels keep the image.

    ``opacity`` 0 shows the image alone, 1 the colours alone. Raises InputError on a label that is
    neither a class nor IGNORE.
    """
    palette = _palette(classes).to(labels.device)
    painted = palette[_checked(labels, classes).long()].permute(2, 0, 1).float()
    mixed = (opacity * painted + (1 - opacity) * image.float()).round().to(torch.uint8)
    return torch.where(labels == IGNORE, image, mixed)


def strip(
    image: Picture, labels: LabelMap, predicted: LabelMap, classes: ClassTable
) -> UInt8[Tensor, "3 h strip"]:
    """Input, label and prediction side by side, ``STRIP_GAP`` white pixels apart."""
    gap = image.new_full((3, image.shape[1], STRIP_GAP), 255)
    panels = [
        image,
        gap,
        overlay(image, labels, classes),
        gap,
        overlay(image, predicted, classes),
    ]
    return torch.cat(panels, dim=2)


def save_png(picture: Picture, path: Path) -> None:
    """Writes an RGB picture; the file is whole or absent."""
    with written_whole(path) as aside:
        Image.fromarray(picture.permute(1, 2, 0).cpu().numpy()).save(aside, format="PNG")


def label_png(labels: LabelMap, classes: ClassTable, path: Path) -> None:
    """Writes the ``label_image``; the file is whole or absent."""
    with written_whole(path) as aside:
        label_image(labels, classes).save(aside, format="PNG")


def label_image(labels: LabelMap, classes: ClassTable) -> Image.Image:
    """Train ids as an index image whose palette holds the class colours; IGNORE is 255."""
    image = Image.fromarray(_checked(labels, classes).cpu().numpy()).convert("P")
    image.putpalette(_palette(classes).numpy().tobytes())
    return image


def colour_key(classes: ClassTable, columns: int = 1) -> Picture:
    """A picture of every class colour with its name, column by column, on white."""
    fonts = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    font = ImageFont.truetype(fonts / "DejaVuSans.ttf", 13)
    line, swatch, margin = 22, 14, 8
    width = swatch + 3 * margin + math.ceil(max(font.getlength(name) for name in classes.names))
    lines = math.ceil(len(classes) / columns)
    canvas = Image.new("RGB", (columns * width, lines * line + margin), "white")
    draw = ImageDraw.Draw(canvas)
    for index, (name, colour) in enumerate(zip(classes.names, classes.colours, strict=True)):
        left, top = index // lines * width + margin, index % lines * line + margin
        draw.rectangle((left, top, left + swatch, top + swatch), colour, outline=(120, 120, 120))
        draw.text((left + swatch + margin, top + swatch / 2), name, "black", font, anchor="lm")
    return torch.from_numpy(np.array(canvas)).permute(2, 0, 1).contiguous()


def best_median_worst(per_image: Sequence[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Which images of a split to show, by mIoU (the upper median; ties by id).

    Entries without a score (nothing labelled) are left out; empty where none has one.
    """
    scored = [entry for entry in per_image if entry["miou"] is not None]
    scored.sort(key=lambda entry: (-entry["miou"], entry["id"]))
    if not scored:
        return {}
    return {
        "best": scored[0],
        "median": scored[(len(scored) - 1) // 2],
        "worst": scored[-1],
    }


@dataclass(frozen=True)
class Axis:
    """The scale of a chart's axis: linear (its ticks ``whole`` numbers), log, or choices."""

    low: Number = 0.0
    high: Number = 1.0
    log: bool = False
    whole: bool = False
    choices: tuple[str, ...] = ()

    @classmethod
    def spanning(cls, values: Iterable[Number], *, log: bool = False, zero: bool = False) -> "Axis":
        """An axis a little longer than its values; ``zero`` lets a linear one begin at 0."""
        values = list(values) or [0.0, 1.0]
        low, high = min(values), max(values)
        if log:
            return cls(low / 1.25, high * 1.25, log=True)
        margin = 0.06 * (high - low) or 0.1 * abs(high) or 0.5
        whole = all(isinstance(value, int) for value in values)
        return cls(0.0 if zero else low - margin, high + margin, whole=whole)

    @classmethod
    def of_space(cls, space: dict[str, Any]) -> "Axis":
        """The axis of a searched key: its bounds, or its choices in the order they are given."""
        if "choice" in space:
            return cls(choices=tuple(str(choice) for choice in space["choice"]))
        ((kind, (low, high)),) = ((k, ends) for k, ends in space.items() if k != "when")
        return cls(float(low), float(high), log=kind == "loguniform", whole=kind == "int")

    def at(self, value: Any) -> float:
        """0 at the low end, 1 at the high end; choices lie in the middles of equal parts."""
        if self.choices:
            return (self.choices.index(str(value)) + 0.5) / len(self.choices)
        if self.high == self.low:
            return 0.5
        if self.log:
            return math.log(value / self.low) / math.log(self.high / self.low)
        return (value - self.low) / (self.high - self.low)

    def ticks(self) -> list[tuple[float, str]]:
        """Position and text of every tick: a few round values inside the axis, or the choices."""
        if self.choices:
            return [(self.at(choice), choice) for choice in self.choices]
        linear = MaxNLocator(6, steps=[1, 2, 2.5, 5, 10], integer=self.whole)
        inside = self._within(linear.tick_values(self.low, self.high))
        if self.log:
            fine = self._within(LogLocator(subs=(1, 2, 5)).tick_values(self.low, self.high))
            decades = self._within(LogLocator().tick_values(self.low, self.high))
            inside = next((some for some in (fine, decades) if 2 <= len(some) <= 7), inside)
        return [(self.at(value), f"{value:.6g}") for value in inside]

    def _within(self, values: Iterable[Number]) -> list[float]:
        slack = 1e-9 * (self.high - self.low)
        return [float(v) for v in values if self.low - slack <= v <= self.high + slack]


def scored_trials(search: dict[str, Any]) -> list[dict[str, Any]]:
    """The trials of a search that have a score. Raises InputError where there is none."""
    if trials := [trial for trial in search["trials"] if trial["miou"] is not None]:
        return trials
    raise InputError("the search has no trial with a score: there is nothing to draw")


def search_axes(search: dict[str, Any]) -> dict[str, Axis]:
    """One axis per searched key, in the order of the space, and the score last."""
    axes = {key: Axis.of_space(space) for key, space in search["space"].items()}
    return axes | {SCORE: Axis.spanning(100 * trial["miou"] for trial in scored_trials(search))}


def _palette(classes: ClassTable) -> UInt8[Tensor, "256 3"]:
    palette = torch.zeros(256, 3, dtype=torch.uint8)
    palette[: len(classes)] = torch.tensor(classes.colours, dtype=torch.uint8)
    palette[IGNORE] = torch.tensor(VOID_COLOUR, dtype=torch.uint8)
    return palette


def _checked(labels: LabelMap, classes: ClassTable) -> LabelMap:
    stray = labels[(labels >= len(classes)) & (labels != IGNORE)].unique().tolist()
    if stray:
        raise InputError(
            f"labels {stray} are outside the class table (0 to {len(classes) - 1}, {IGNORE})"
        )
    return labels
