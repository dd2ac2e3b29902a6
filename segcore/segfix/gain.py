"""What moving labels gained: scores before and after, near boundaries too, with intervals."""

from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from segcore.boundaries import boundary_counts, boundary_f
from segcore.intervals import Interval, difference, mean_difference, mean_interval
from segcore.metrics import Figure, confusion_matrix, counts_of, mean_iou, pixel_accuracy
from segcore.segfix.moves import distances_and_bins
from segcore.types import IGNORE

BANDS = (3, 5, 10)
"""Pixels to the next pixel of another class, within which labels are scored apart too."""

LabelMap = UInt8[Tensor, "h w"]


class Gain:
    """Adds up, image by image, how labels score before and after they were refined."""

    def __init__(self, num_classes: int) -> None:
        self.num_classes = num_classes
        self.ids = list[str]()
        self.counts = dict[str, list[Int[np.ndarray, "2 3 k"]]]()
        self.boundary_f = list[Float[np.ndarray, "2 k"]]()
        self.labelled = self.changed = 0

    def add(self, name: str, labels: LabelMap, before: LabelMap, after: LabelMap) -> None:
        """``labels`` may hold IGNORE; what was predicted may not."""
        self.ids.append(name)
        distances = torch.from_numpy(distances_and_bins(labels.numpy())[0])
        bands = {f"miou_within_{band}": labels.where(distances <= band, IGNORE) for band in BANDS}
        for zone, counted in {"miou": labels, **bands}.items():
            both = [confusion_matrix(counted, each, self.num_classes) for each in (before, after)]
            self._count(zone, [counts_of(each.numpy()) for each in both])
        true, maps = labels.numpy(), (before.numpy(), after.numpy())
        near = [boundary_counts(true, each, self.num_classes) for each in maps]
        self._count("boundary_iou", near)
        contours = [boundary_f(true, each, self.num_classes) for each in maps]
        self.boundary_f.append(np.stack(contours))
        self.labelled += int((labels != IGNORE).sum())
        self.changed += int(((labels != IGNORE) & (before != after)).sum())

    def _count(self, name: str, both: list[Int[np.ndarray, "3 k"]]) -> None:
        self.counts.setdefault(name, []).append(np.stack(both))

    def per_image(self) -> dict[str, float]:
        """Every image's name and the gain of its own mIoU."""
        both = np.asarray(mean_iou(np.stack(self.counts["miou"])))
        return dict(zip(self.ids, (both[:, 1] - both[:, 0]).tolist(), strict=True))

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON values: of each figure the score before and after, what was gained, and the
        95 % interval of that over images."""
        figures = {name: _compared(counts, mean_iou) for name, counts in self.counts.items()}
        figures["pixel_accuracy"] = _compared(self.counts["miou"], pixel_accuracy)
        before, after = np.stack(self.boundary_f, axis=1)
        first, last = mean_interval(before).value, mean_interval(after).value
        figures["boundary_f"] = _entry(first, last, mean_difference(after, before))
        share = self.changed / max(self.labelled, 1)
        return {"images": len(self.ids), "changed_share": share, "figures": figures}


def _compared(counts: list[Int[np.ndarray, "2 3 k"]], figure: Figure) -> dict[str, Any]:
    before, after = np.stack(counts, axis=1)
    first, last = float(figure(before.sum(axis=0))), float(figure(after.sum(axis=0)))
    return _entry(first, last, difference([after], [before], figure))


def _entry(before: float, after: float, gain: Interval) -> dict[str, Any]:
    interval = [gain.low, gain.high]
    return {"before": before, "after": after, "gain": gain.value, "interval": interval}
