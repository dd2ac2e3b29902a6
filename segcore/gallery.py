"""Pictures of how a network did on a split: its best, median and worst image."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from segcore.inference import predict_labels
from segcore.pictures import best_median_worst, save_png, strip
from segcore.runs import LoadedModel
from segcore.shards import ShardReader


def draw_extremes(
    model: LoadedModel,
    reader: ShardReader,
    per_image: Sequence[dict[str, Any]],
    prefix: Path,
    predict: Callable[[nn.Module, Tensor], Tensor] = predict_labels,
) -> list[Path]:
    """Writes ``<prefix>-{best,median,worst}.png``: input, label and prediction side by side.

    ``per_image`` holds ``id`` and ``miou`` of every image, in the reader's order.
    """
    drawn = list[Path]()
    places = {image["id"]: index for index, image in enumerate(per_image)}
    for place, image in best_median_worst(per_image).items():
        sample = reader[places[image["id"]]]
        found = predict(model.network, sample.image[None])[0].cpu()
        path = prefix.with_name(f"{prefix.name}-{place}.png")
        save_png(strip(sample.image, sample.labels, found, model.classes), path)
        drawn.append(path)
    return drawn
