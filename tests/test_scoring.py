"""The scores of a split: by one process and by four, under several protocols."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from segcore import scoring
from segcore.batches import evaluation_batches
from segcore.distributed import rank, world_size
from segcore.errors import InputError
from segcore.evaluation import Tally, evaluate, evaluate_images
from segcore.files import write_json
from segcore.inference import predictor
from segcore.model_files import build_network, load_model, save_model
from segcore.pixels import resize_image, resize_labels
from segcore.row import Run
from segcore.runs import train
from segcore.scoring import Part, check_data, open_split, score_split
from segcore.segfix import moves_of
from segcore.shards import Manifest, ShardReader
from segcore.tables import TestTime
from segcore.training import Evaluated, Saved
from tests.workers import run_workers

SLIDING = TestTime(window=(32, 32), stride=(20, 20), flip=True)


def row(**values: Any) -> Run:
    plain = {
        "method": "fcn",
        "backbone": "resnet18",
        "dataset": "tiny",
        "backbone_options": {"channels": [8, 8, 16, 16]},
        "output_stride": 8,
        "options": {"width": 8, "num_convs": 1, "auxiliary_width": 8},
        "steps": 1,
        "batch_size": 4,
        "crop": (32, 32),
        "evaluate_every": 1,
        "save_every": 1,
        "device": "cpu",
    }
    return Run.model_validate(plain | values)


@pytest.fixture
def folder(tiny: str, tmp_path: Path) -> Path:
    """A model that answers at random, but the same each time."""
    torch.manual_seed(3)
    classes = Manifest.read(tiny).classes
    network = build_network(row(), len(classes))
    save_model(tmp_path, network.state_dict(), "row", row(), classes)
    return tmp_path


def test_the_scores_of_a_split(tiny: str, folder: Path):
    done = list[int]()
    found = score_split(folder, row(), tiny, "train", TestTime(), done.append)
    assert sum(done) == found["images"] == 8
    network, reader = load_model(folder).network, ShardReader(tiny, "train")
    ids = [reader[index].id for index in range(8)]
    assert [image["id"] for image in found["per_image"]] == ids
    results = list(evaluate_images(network, evaluation_batches(reader), 4))
    total = sum(result.confusion for result in results)
    np.testing.assert_array_equal(found["confusion"], total)
    assert [image["miou"] for image in found["per_image"]] == [each.miou for each in results]
    for name, (low, high) in found["intervals"].items():
        assert low <= found[name] <= high, name
    assert json.loads(json.dumps(found, allow_nan=False)) == found


def test_a_part_is_a_range_of_images_and_all_share_a_reader(tiny: str, folder: Path, monkeypatch):
    ranges, readers, score, open_it = [], [], scoring.score_part, scoring.open_split

    def score_part(part: Part) -> Tally:
        ranges.append((part.first, part.end))
        return score(part)

    def open_split(*arguments: Any) -> ShardReader:
        readers.append(open_it(*arguments))
        return readers[-1]

    expected = score_split(folder, row(), tiny, "train", TestTime())
    monkeypatch.setattr(scoring, "PER_PART", 3)
    monkeypatch.setattr(scoring, "score_part", score_part)
    monkeypatch.setattr(scoring, "open_split", open_split)
    assert score_split(folder, row(), tiny, "train", TestTime()) == expected
    assert ranges == [(0, 3), (3, 6), (6, 8)]
    assert len(readers) == 2  # one for their number, one for all parts


@pytest.mark.long
@pytest.mark.parametrize("how", [TestTime(), SLIDING])
def test_four_processes_count_what_one_counts(tiny: str, folder: Path, monkeypatch, how: TestTime):
    alone = score_split(folder, row(), tiny, "train", how)
    monkeypatch.setattr(scoring, "PER_PROCESS", 1)
    monkeypatch.setattr(scoring, "PER_PART", 1)
    assert score_split(folder, row(workers=4), tiny, "train", how) == alone
    # The same slices by the workers of a training, four of them though there are two cores.
    found = run_workers(4, slice_of_worker, folder, tiny, how)
    matrices, images = zip(*found, strict=True)
    np.testing.assert_array_equal(sum(matrices), alone["confusion"])
    listed = {name: values for part in images for name, values in part}
    assert [listed[image["id"]] for image in alone["per_image"]] == alone["per_image"]


def slice_of_worker(folder: Path, tiny: str, how: TestTime) -> Any:
    model, tally = load_model(folder), Tally(4)
    batches = evaluation_batches(ShardReader(tiny, "train"), rank=rank(), ranks=world_size())
    predict = predictor(how, model.classes.mirror)
    for result in evaluate_images(model.network, batches, 4, predict):
        tally.add(result)
    return tally.confusion, [(image.id, image.as_dict()) for image in tally.images]


def test_a_crop_is_the_middle_of_the_resized_image(tiny: str):
    how = TestTime(resize=40, crop=(32, 40))
    reader, plain = open_split(row(), tiny, "val", how), ShardReader(tiny, "val")
    for index in range(len(reader)):
        sample, whole = reader[index], plain[index]
        image = resize_image(whole.image, (40, 53))  # 48 x 64 with a short side of 40
        labels = resize_labels(whole.labels, (40, 53))
        assert torch.equal(sample.image, image[:, 4:36, 6:46])
        assert torch.equal(sample.labels, labels[4:36, 6:46])
        assert sample.id == whole.id


def test_a_crop_counts_its_own_pixels_only(tiny: str, folder: Path):
    how = TestTime(resize=40, crop=(32, 40))
    found = score_split(folder, row(), tiny, "val", how)
    reader = open_split(row(), tiny, "val", how)
    labelled = [int((reader[index].labels != 255).sum()) for index in range(len(reader))]
    assert [sum(image["labelled"]) for image in found["per_image"]] == labelled


def test_a_crop_of_a_segfix_row_is_labelled_with_moves(tiny: str):
    """Of what the crop shows, as in training."""
    options = {"boundary_width": 3, "smallest_region": 1}
    segfix, how = row(method="segfix", options={}, loss_options=options), TestTime(resize=40)
    how = how.model_copy(update={"crop": (32, 40)})
    reader, plain = open_split(segfix, tiny, "val", how), open_split(row(), tiny, "val", how)
    for index in range(len(reader)):
        assert torch.equal(reader[index].image, plain[index].image)
        assert torch.equal(reader[index].labels, moves_of(plain[index].labels, **options))


@pytest.mark.long
def test_validation_in_training_looks_once_as_the_row_says(tiny: str):
    look = {"resize": 40, "window": (32, 32), "stride": (20, 20)}
    how = TestTime(scales=(1.0, 1.5), flip=True, crop=(32, 32), **look)
    assert how.single() == TestTime(**look)
    assert TestTime().single() == TestTime()
    events = list(train(row(steps=2, test_time=how), tiny))
    *_, found = (event.scores for event in events if isinstance(event, Evaluated) and event.best)
    *_, saved = (event for event in events if isinstance(event, Saved))
    network = build_network(row(), 4).eval()
    network.load_state_dict(saved.checkpoint.best_weights)
    batches = evaluation_batches(ShardReader(tiny, "val"))
    expected = evaluate(network, batches, 4, predictor(TestTime(**look), range(4)))
    np.testing.assert_array_equal(found.confusion, expected.confusion)


def test_an_image_that_is_too_small_is_named(tiny: str, folder: Path):
    how = TestTime(resize=6)
    with pytest.raises(InputError, match=r"image 08: an image of 6x8 pixels is smaller than the"):
        score_split(folder, row(), tiny, "val", how)


def test_other_data_than_trained_on_is_refused(tiny: str, folder: Path):
    manifest, model = Manifest.read(tiny), load_model(folder)
    write_json(folder / "registered.json", {"data_hash": manifest.data_hash})
    check_data("row", folder, model, manifest)
    write_json(folder / "registered.json", {"data_hash": "0123456789abcdef"})
    hashes = rf"\(0123456789ab, not {manifest.data_hash[:12]}\)"
    told = rf"row was trained on other data of tiny than are prepared now {hashes}"
    with pytest.raises(InputError, match=rf"{told}; run: dvc repro train@row"):
        check_data("row", folder, model, manifest)
    renamed = replace(model.classes, names=("ground", "red", "green", "violet"))
    other = replace(model, classes=renamed)
    with pytest.raises(InputError, match=r"trained on other classes .* dvc repro train@row"):
        check_data("row", folder, other, manifest)
