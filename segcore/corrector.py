"""A model and a SegFix network side by side: an image's labels before and after, and pictures."""

from collections.abc import Callable
from pathlib import Path

import torch
from jaxtyping import UInt8
from torch import Tensor, nn

from segcore.inference import predict_labels
from segcore.pictures import STRIP_GAP, overlay, save_png, strip
from segcore.segfix import refine
from segcore.shards import ShardReader
from segcore.types import ClassTable

LabelMap = UInt8[Tensor, "h w"]
Look = Callable[[UInt8[Tensor, "3 h w"]], tuple[LabelMap, LabelMap]]
"""From an image to its labels as a model predicts them, and refined."""


def corrector(
    network: nn.Module,
    predict: Callable[[nn.Module, Tensor], Tensor],
    segfix: nn.Module,
    *,
    step: int,
) -> Look:
    """``predict`` gives the labels of ``network``; ``segfix`` may come from another dataset."""

    def look(image: UInt8[Tensor, "3 h w"]) -> tuple[LabelMap, LabelMap]:
        before = predict(network, image[None])
        after = refine(before, predict_labels(segfix, image[None]), step=step)
        return before[0].cpu(), after[0].cpu()

    return look


def draw_gains(
    gains: dict[str, float], reader: ShardReader, look: Look, classes: ClassTable, prefix: Path
) -> None:
    """Writes ``<prefix>-{most,median,least}.png``: input, label, prediction and refined labels of
    the images that gained so; ``gains`` holds every image in the reader's order."""
    values = list(gains.values())
    order = sorted(range(len(values)), key=values.__getitem__)
    places = {"most": order[-1], "median": order[len(order) // 2], "least": order[0]}
    for kind, place in places.items():
        sample = reader[place]
        before, after = look(sample.image)
        shown = strip(sample.image, sample.labels, before, classes)
        gap = shown.new_full((3, shown.shape[1], STRIP_GAP), 255)
        shown = torch.cat([shown, gap, overlay(sample.image, after, classes)], dim=2)
        save_png(shown, prefix.with_name(f"{prefix.name}-{kind}.png"))
