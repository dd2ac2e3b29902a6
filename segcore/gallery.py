"""Pictures of how a network did on a split: strips to look at, and the images of the report."""

import base64
import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from PIL import Image
from torch import Tensor, nn

from segcore.files import write_json
from segcore.inference import predict_labels
from segcore.model_files import LoadedModel
from segcore.pictures import LabelMap, Picture, best_median_worst, save_png, strip
from segcore.shards import ShardReader
from segcore.types import Sample

SHOWN = 32
"""Images of a split that the report can show of every row: the same ones for each."""
LONG_SIDE = 384
"""Pixels of their longer side, at most."""


def draw_images(
    model: LoadedModel,
    reader: ShardReader,
    per_image: Sequence[dict[str, Any]],
    prefix: Path,
    predict: Callable[[nn.Module, Tensor], Tensor] = predict_labels,
) -> list[Path]:
    """Writes ``<prefix>-{best,median,worst}.png``: input, label and prediction side by side; and
    ``<prefix>-images.json``, what a browser shows of the worst image and of ``SHOWN`` others.

    ``per_image`` holds ``id`` and ``miou`` of every image, in the reader's order. The JSON lists
    ``id``, ``height``, ``width``, ``input``, ``label`` and ``predicted``: pictures as data URIs,
    those of labels grey and exact, a pixel's value its train id.
    """
    drawn, shown = list[Path](), list[dict[str, Any]]()
    places = {image["id"]: index for index, image in enumerate(per_image)}
    extremes = {kind: places[image["id"]] for kind, image in best_median_worst(per_image).items()}
    worst = [place for kind, place in extremes.items() if kind == "worst"]
    listed = list(dict.fromkeys([*worst, *spread(len(reader), SHOWN)]))
    for index in dict.fromkeys([*listed, *extremes.values()]):
        sample = reader[index]
        found = predict(model.network, sample.image[None])[0].cpu()
        if index in listed:
            shown.append(_entry(sample, found))
        for kind in (kind for kind, place in extremes.items() if place == index):
            path = prefix.with_name(f"{prefix.name}-{kind}.png")
            save_png(strip(sample.image, sample.labels, found, model.classes), path)
            drawn.append(path)
    listing = prefix.with_name(f"{prefix.name}-images.json")
    write_json(listing, shown)
    return [*drawn, listing]


def spread(count: int, most: int) -> list[int]:
    """At most ``most`` of ``count`` places, evenly apart; so are the first few of them, since
    their order is that of van der Corput's sequence in base 2."""
    places = [count * number // most for number in range(most)] if count > most else range(count)
    width = max(len(places) - 1, 1).bit_length()
    order = sorted(range(len(places)), key=lambda place: f"{place:0{width}b}"[::-1])
    return [places[place] for place in order]


def _entry(sample: Sample, found: LabelMap) -> dict[str, Any]:
    height, width = sample.labels.shape
    return {
        "id": sample.id,
        "height": height,
        "width": width,
        "input": _photograph(sample.image),
        "label": _exact(sample.labels),
        "predicted": _exact(found),
    }


def _photograph(picture: Picture) -> str:
    image = Image.fromarray(picture.permute(1, 2, 0).numpy())
    return _data_uri(image.resize(_fitted(image), Image.Resampling.BOX), quality=80)


def _exact(labels: LabelMap) -> str:
    image = Image.fromarray(labels.numpy())
    return _data_uri(image.resize(_fitted(image), Image.Resampling.NEAREST), lossless=True)


def _fitted(image: Image.Image) -> tuple[int, int]:
    factor = min(1.0, LONG_SIDE / max(image.size))
    width, height = (max(1, round(side * factor)) for side in image.size)
    return width, height


def _data_uri(image: Image.Image, *, quality: int = 100, lossless: bool = False) -> str:
    image.save(file := io.BytesIO(), "WEBP", quality=quality, lossless=lossless, method=6)
    return f"data:image/webp;base64,{base64.b64encode(file.getvalue()).decode()}"
