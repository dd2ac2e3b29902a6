"""Pictures of a prepared dataset: how often its classes occur, and what samples look like."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import UInt8
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

from segcore.files import read_json, written_whole
from segcore.pictures import Picture, colour_key, overlay, save_png
from segcore.shards import MANIFEST, Manifest, ShardReader
from segcore.types import ClassTable, Sample

AUDIT, SHEET = "audit.png", "samples.png"
COLUMNS, CELL, GAP = 6, (150, 220), 4
"""Samples per split, the height and width of each, white pixels between them."""
MOST_KEY_COLUMNS = 8


def illustrate(folder: Path) -> None:
    """Writes ``audit.png`` and ``samples.png`` beside the manifest of a prepared dataset."""
    draw_audit(read_json(folder / MANIFEST), folder / AUDIT)
    save_png(sample_sheet(folder), folder / SHEET)


def prepared_data(folder: Path) -> dict[str, Any] | None:
    """What a report shows of a prepared dataset; None where it lies elsewhere."""
    if not all((folder / name).exists() for name in (MANIFEST, AUDIT, SHEET)):
        return None
    manifest = read_json(folder / MANIFEST)
    return manifest | {"audit": folder / AUDIT, "sheet": folder / SHEET}


def draw_audit(manifest: dict[str, Any], path: Path) -> None:
    """Draws per class and split the share of labelled pixels (logarithmic) and of images."""
    names, splits = manifest["classes"]["names"], manifest["splits"]
    figure = Figure(figsize=(11, 1.2 + 0.22 * len(names)), dpi=80, layout="constrained")
    by_pixels, by_images = figure.subplots(1, 2, sharey=True)
    thickness, rows = 0.8 / len(splits), np.arange(len(names))
    counts = {split: np.array(facts["pixels"]) for split, facts in splits.items()}
    shares = {split: 100 * own / max(own.sum(), 1) for split, own in counts.items()}
    least = min([100.0, *(share for own in shares.values() for share in own.tolist() if share)])
    by_pixels.set(xscale="log", xlim=(least / 2, 100), xlabel="% of the labelled pixels")
    for number, (split, facts) in enumerate(splits.items()):
        places = rows + (number + 0.5) * thickness - 0.4
        by_pixels.barh(places, shares[split], thickness, label=split)
        by_images.barh(places, 100 * np.array(facts["images_with"]) / facts["images"], thickness)
    by_pixels.set_yticks(rows, [name.replace("$", r"\$") for name in names])
    by_images.set(ylim=(len(names) - 0.4, -0.6), xlim=(0, 100), xlabel="% of the images hold it")
    figure.legend(loc="outside upper left", ncols=len(splits), frameon=False)
    with written_whole(path) as aside:  # no software version inside: equal input, equal bytes
        figure.savefig(aside, format="png", metadata={"Software": None})


def sample_sheet(folder: Path) -> UInt8[Tensor, "3 sheet width"]:
    """Samples from all over each split, images above their labels; below them a colour key."""
    manifest, rows = Manifest.read(str(folder)), list[Picture]()
    for split in manifest.splits:
        reader = ShardReader(str(folder), split)
        count = min(COLUMNS, len(reader))
        chosen = [len(reader) * number // count for number in range(count)]
        rows += _two_rows([reader[index] for index in chosen], manifest.classes)
    width = rows[0].shape[2]
    alone = colour_key(manifest.classes).shape[2]
    key = colour_key(manifest.classes, min(MOST_KEY_COLUMNS, max(1, width // alone)))
    return torch.cat([_padded(row, max(width, key.shape[2])) for row in (*rows, key)], dim=1)


def _two_rows(samples: list[Sample], classes: ClassTable) -> list[Picture]:
    images = [_fitted(sample.image) for sample in samples]
    painted = [_fitted(overlay(sample.image, sample.labels, classes)) for sample in samples]
    blank = [torch.full_like(images[0], 255)] * (COLUMNS - len(samples))
    return [torch.cat(row + blank, dim=2) for row in (images, painted)]


def _fitted(picture: Picture) -> UInt8[Tensor, "3 cell_height cell_width"]:
    """The picture in the middle of a white cell, as large as it fits."""
    height, width = CELL
    small = Image.fromarray(picture.permute(1, 2, 0).numpy())
    small.thumbnail((width - GAP, height - GAP), Image.Resampling.BOX)
    cell = Image.new("RGB", (width, height), "white")
    cell.paste(small, ((width - small.width) // 2, (height - small.height) // 2))
    return torch.from_numpy(np.array(cell)).permute(2, 0, 1)


def _padded(picture: Picture, width: int) -> UInt8[Tensor, "3 h padded"]:
    missing = picture.new_full((3, picture.shape[1], width - picture.shape[2]), 255)
    return torch.cat([picture, missing], dim=2)
