"""What every dataset owes; a new file in segcore/datasets is tested by being there."""

import csv
import inspect
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import segcore.datasets
from segcore.datasets import Dataset, build_dataset, list_datasets, read_class_table
from segcore.errors import InputError
from segcore.types import IGNORE

HERE = Path(segcore.datasets.__file__).parent
WITH_TABLE = sorted(path.stem for path in HERE.glob("*.csv"))


@pytest.fixture(params=list_datasets())
def dataset(request, tmp_path) -> Dataset:
    """Built with its defaults; ``folder`` has none, so it gets two files of its own."""
    if request.param != "folder":
        return build_dataset(request.param, {})
    for name in ("a", "b"):
        Image.new("RGB", (4, 3)).save(tmp_path / f"{name}.jpg")
        Image.new("L", (4, 3)).save(tmp_path / f"{name}.png")
    options = {"root": str(tmp_path), "images": "{stem}.jpg", "labels": "{stem}.png"}
    return build_dataset("folder", options | {"split": {"val": 0.5}, "classes": ["x", "y"]})


@pytest.mark.parametrize("name", list_datasets())
def test_file_has_one_public_class_and_fits_a_screenful(name):
    module = import_module(f"segcore.datasets.{name}")
    (class_name,) = module.__all__
    assert issubclass(getattr(module, class_name), Dataset)
    assert len((HERE / f"{name}.py").read_text().splitlines()) <= 250
    for _, function in inspect.getmembers(module, inspect.isfunction):
        assert len(inspect.getsource(function).splitlines()) <= 40


def test_every_table_belongs_to_a_dataset():
    assert set(WITH_TABLE) == set(list_datasets()) - {"folder"}


def test_colours_are_distinct_and_in_range(dataset):
    colours = dataset.classes.colours
    assert len(set(colours)) == len(colours) == len(dataset.classes.names)
    assert all(0 <= part <= 255 for colour in colours for part in colour)


def test_names_are_distinct(dataset):
    assert len(set(dataset.classes.names)) == len(dataset.classes)


def test_mirror_is_an_involution(dataset):
    mirror = dataset.classes.mirror
    assert [mirror[mirror[index]] for index in range(len(mirror))] == list(range(len(mirror)))


def test_train_ids_cover_the_classes_and_no_more(dataset):
    assert dataset.train_ids.shape == (256,)
    reached = {int(dataset.train_ids[value]) for value in dataset.known}
    assert reached - {IGNORE} == set(range(len(dataset.classes)))
    unknown = sorted(set(range(256)) - dataset.known)
    assert (dataset.train_ids[unknown] == IGNORE).all()


def test_says_where_the_data_and_how_many(dataset):
    assert dataset.home
    assert all(size > 0 for size in dataset.split_sizes.values())
    assert {"train", "val"} <= set(dataset.split_sizes)


@pytest.mark.parametrize("name", WITH_TABLE)
def test_table_stands_in_train_id_order_without_a_raw_id_twice(name):
    with (HERE / f"{name}.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    train_ids = [int(row["train_id"]) for row in rows if int(row["train_id"]) != IGNORE]
    assert train_ids == list(range(len(train_ids)))
    raw = [value for row in rows for value in row["raw_ids"].split()]
    assert len(raw) == len(set(raw))
    table, mapping, known = read_class_table(name)
    assert len(table) == len(train_ids)
    assert known == {int(value) for value in raw}
    for row in rows:
        assert {int(mapping[int(value)]) for value in row["raw_ids"].split()} <= {
            int(row["train_id"])
        }


def test_stray_label_values_are_named_with_counts(tmp_path):
    dataset = build_dataset("shapes", {})
    labels = np.zeros((3, 4), np.uint8)
    labels[0, :2], labels[2, 3] = 77, 200
    Image.fromarray(labels).save(tmp_path / "odd.png")
    with pytest.raises(InputError, match=r"odd\.png.*77 \(2 pixels\), 200 \(1 pixels\)"):
        dataset.read_labels(tmp_path / "odd.png")


def test_unknown_dataset_and_option_get_a_suggestion():
    with pytest.raises(InputError, match="did you mean 'shapes'"):
        build_dataset("shape", {})
    with pytest.raises(InputError, match="did you mean 'height'"):
        build_dataset("shapes", {"heigth": 64})
