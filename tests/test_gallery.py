"""The images of the report: the worst one and others from all over a split, labels exact."""

import base64
import io
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from segcore.files import read_json
from segcore.gallery import LONG_SIDE, SHOWN, draw_images, spread
from segcore.model_files import LoadedModel
from segcore.row import Run
from segcore.shards import MANIFEST, Manifest, Record, ShardReader, write_shard
from tests.narrow_networks import build_narrow

RUN = Run(
    method="fcn",
    backbone="resnet18",
    dataset="tiny",
    steps=1,
    batch_size=1,
    crop=(32, 32),
    evaluate_every=1,
    save_every=1,
)


def red_or_ground(_network: nn.Module, images: Tensor) -> Tensor:
    """What the test predicts: class 1 where an image is bright in red, else class 0."""
    return (images[:, 0] > 150).to(torch.uint8)


def pixels_of(uri: str) -> np.ndarray:
    kind, data = uri.split(",")
    assert kind == "data:image/webp;base64"
    with Image.open(io.BytesIO(base64.b64decode(data))) as image:
        return np.asarray(image.convert("RGB"))


@pytest.mark.parametrize("count", [1, 2, 5, SHOWN, SHOWN + 1, 20 * SHOWN])
def test_places_are_spread_and_so_are_the_first_of_them(count: int) -> None:
    places = spread(count, SHOWN)
    assert len(places) == len(set(places)) == min(count, SHOWN)
    assert set(places) <= set(range(count))
    gaps = np.diff(sorted(places))
    assert gaps.size == 0 or gaps.max() - gaps.min() <= 1
    if count % SHOWN == 0:
        quarters = [4 * place // count for place in places[:4]]
        assert sorted(quarters) == [0, 1, 2, 3]


def test_labels_and_predictions_are_exact(tiny: str, tmp_path: Path) -> None:
    reader, classes = ShardReader(tiny, "train"), Manifest.read(tiny).classes
    model = LoadedModel(build_narrow("fcn").eval(), RUN, classes)
    scores = [0.5, 0.4, None, 0.7, 0.1, 0.6, 0.2, 0.3]
    per_image = [{"id": reader[i].id, "miou": score} for i, score in enumerate(scores)]
    drawn = draw_images(model, reader, per_image, tmp_path / "train", red_or_ground)
    assert sorted(path.name for path in drawn) == [
        *("train-best.png", "train-images.json", "train-median.png", "train-worst.png"),
    ]
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(path.name for path in drawn)
    shown = read_json(tmp_path / "train-images.json")
    assert shown[0]["id"] == per_image[4]["id"], "the worst image leads"
    assert sorted(image["id"] for image in shown) == sorted(each["id"] for each in per_image)
    samples = {sample.id: sample for sample in (reader[i] for i in range(len(reader)))}
    for image in shown:
        sample = samples[image["id"]]
        assert (image["height"], image["width"]) == tuple(sample.labels.shape)
        expected = red_or_ground(model.network, sample.image[None])[0]
        for channel in range(3):
            assert np.array_equal(pixels_of(image["label"])[..., channel], sample.labels)
            assert np.array_equal(pixels_of(image["predicted"])[..., channel], expected)
        error = pixels_of(image["input"]).astype(float) - sample.image.permute(1, 2, 0).numpy()
        assert np.abs(error).mean() < 15  # it is compressed


def test_large_images_are_shrunk_alike(tmp_path: Path, tiny: str) -> None:
    classes = Manifest.read(tiny).classes
    model = LoadedModel(build_narrow("fcn").eval(), RUN, classes)
    folder = large_split(tmp_path, tiny)
    reader = ShardReader(str(folder), "val")
    per_image = [{"id": reader[0].id, "miou": 0.5}]
    draw_images(model, reader, per_image, tmp_path / "val", red_or_ground)
    (image,) = read_json(tmp_path / "val-images.json")
    assert (image["height"], image["width"]) == (500, 1000)
    sizes = {pixels_of(image[key]).shape for key in ("input", "label", "predicted")}
    assert sizes == {(LONG_SIDE // 2, LONG_SIDE, 3)}
    assert set(np.unique(pixels_of(image["label"]))) == {0, 3}, "no value between two classes"
    strips = [tmp_path / f"val-{kind}.png" for kind in ("best", "median", "worst")]
    assert all(path.exists() for path in strips), "one image is all three"


def large_split(place: Path, tiny: str) -> Path:
    """A dataset of one image of 500x1000, left half class 0 and right half class 3."""
    labels = np.zeros((500, 1000), np.uint8)
    labels[:, 500:] = 3
    Image.fromarray(np.stack([labels * 60] * 3, 2)).save(file := io.BytesIO(), "PNG")
    record = Record("large", file.getvalue(), labels.tobytes(), 500, 1000)
    folder = place / "large"
    folder.mkdir()
    write_shard(folder / "val-0.parquet", [record], Manifest.read(tiny).classes)
    manifest = read_json(Path(tiny) / MANIFEST)
    shard = {"name": "val-0.parquet", "sha256": "", "rows": 1}
    manifest["splits"] = {"val": {"shards": [shard]}}
    (folder / MANIFEST).write_text(json.dumps(manifest))
    return folder
