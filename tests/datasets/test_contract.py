"""What every dataset owes; a new file in segcore/datasets is tested by being there.

``facts/<name>.json`` holds what its publishers print: classes, colours, the map from raw ids,
split sizes, addresses, checksums. ``miniatures/<name>.py`` makes the dataset in small.
"""

import csv
import hashlib
import inspect
import json
import shutil
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import segcore.datasets
from segcore.acquisition.archives import Archive
from segcore.batches import RankSteps, TrainingStream, training_batches
from segcore.datasets import Dataset, build_dataset, list_datasets, read_class_table
from segcore.download import download
from segcore.errors import InputError
from segcore.preparation import prepare
from segcore.shards import Manifest, ShardReader
from segcore.transforms import Augmentation
from segcore.types import IGNORE
from tests.datasets.miniatures import Expected, build_miniature, list_miniatures
from tests.range_server import Served, range_server

HERE = Path(segcore.datasets.__file__).parent
FACTS = Path(__file__).parent / "facts"
WITH_TABLE = sorted(path.stem for path in HERE.glob("*.csv"))
OURS = {"folder", "shapes"}
"""No published data: a user's own files, and scenes that are drawn."""

SPLITS: dict[str, dict[str, tuple[str, ...]]] = {
    "voc2012": {"trainaug": ("train",), "val": ("val",)},
    "coco_stuff_10k": {"train": ("train",), "test": ("val",)},
    "oxford_pet": {"trainval": ("train", "val"), "test": ("test",)},
    "coco_voc21": {},  # what is left of it after its filter was never printed
}
"""Published split -> ours, where the names differ."""

REPEATED_COLOURS = {
    "ade20k": 1,
    "pascal_context_59": 1,
    "pascal_context_60": 1,
    "coco_stuff_10k": 9,
    "coco_stuff_164k": 9,
    "mapillary_v2": 25,
}
"""Published palettes repeat themselves: colours are for display alone."""


def facts_of(name: str) -> dict[str, Any]:
    return json.loads((FACTS / f"{name}.json").read_text())


@pytest.fixture(params=list_datasets())
def name(request) -> str:
    return request.param


@pytest.fixture
def dataset(name, tmp_path) -> Dataset:
    """Built with its defaults; ``folder`` has none, so it gets two files of its own."""
    if name != "folder":
        return build_dataset(name, {})
    for stem in ("a", "b"):
        Image.new("RGB", (4, 3)).save(tmp_path / f"{stem}.jpg")
        Image.new("L", (4, 3)).save(tmp_path / f"{stem}.png")
    options = {"root": str(tmp_path), "images": "{stem}.jpg", "labels": "{stem}.png"}
    return build_dataset("folder", options | {"split": {"val": 0.5}, "classes": ["x", "y"]})


# --- the file and its class table ----------------------------------------------------------------


def test_file_has_one_public_class_and_fits_a_screenful(name):
    module = import_module(f"segcore.datasets.{name}")
    (class_name,) = module.__all__
    assert issubclass(getattr(module, class_name), Dataset)
    assert len((HERE / f"{name}.py").read_text().splitlines()) <= 250
    for _, function in inspect.getmembers(module, inspect.isfunction):
        assert len(inspect.getsource(function).splitlines()) <= 40


def test_every_table_belongs_to_a_dataset():
    assert set(WITH_TABLE) == set(list_datasets()) - {"folder"}


def test_colours_are_in_range_and_repeat_only_as_published(name, dataset):
    colours = dataset.classes.colours
    assert len(colours) == len(dataset.classes.names)
    assert len(colours) - len(set(colours)) == REPEATED_COLOURS.get(name, 0)
    assert all(0 <= part <= 255 for colour in colours for part in colour)


def test_names_are_distinct(dataset):
    assert len(set(dataset.classes.names)) == len(dataset.classes)


def test_mirror_is_an_involution(dataset):
    mirror = dataset.classes.mirror
    assert [mirror[mirror[index]] for index in range(len(mirror))] == list(range(len(mirror)))


def test_train_ids_cover_the_classes_and_no_more(dataset):
    assert dataset.train_ids.shape == (max(256, *(value + 1 for value in dataset.known)),)
    reached = {int(dataset.train_ids[value]) for value in dataset.known}
    assert reached - {IGNORE} == set(range(len(dataset.classes)))
    unknown = sorted(set(range(len(dataset.train_ids))) - dataset.known)
    assert (dataset.train_ids[unknown] == IGNORE).all()


def test_says_where_the_data_and_how_many(name, dataset):
    assert dataset.home
    assert all(size > 0 for size in dataset.split_sizes.values())
    assert name == "coco_voc21" or {"train", "val"} <= set(dataset.split_sizes)


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


def test_many_stray_values_are_counted_not_all_listed():
    dataset = build_dataset("shapes", {})
    values = np.arange(100, 200, dtype=np.uint8).reshape(10, 10)
    with pytest.raises(InputError, match=r": 100 \(1 pixels\), .*109 \(1 pixels\) and 90 more$"):
        dataset.look_up("odd", values)


def test_values_beyond_a_byte_and_below_zero_are_looked_up_or_named():
    dataset = build_dataset("shapes", {})
    with pytest.raises(InputError, match=r"odd: .*table: -7 \(1 pixels\), 300 \(2 pixels\)$"):
        dataset.look_up("odd", np.array([[0, 300, 300], [-7, 1, 2]], np.int16))
    dataset.train_ids = np.concatenate([dataset.train_ids, np.full(45, 2, np.uint8)])
    dataset.known |= {300}
    found = dataset.look_up("odd", np.array([[0, 300, 1]], np.uint16))
    assert found.tolist() == [[0, 2, 1]]
    assert found.dtype == np.uint8


def test_unknown_dataset_and_option_get_a_suggestion():
    with pytest.raises(InputError, match="did you mean 'shapes'"):
        build_dataset("shape", {})
    with pytest.raises(InputError, match="did you mean 'height'"):
        build_dataset("shapes", {"heigth": 64})


# --- what the publishers say ---------------------------------------------------------------------


def test_every_published_dataset_has_its_facts():
    assert {path.stem for path in FACTS.glob("*.json")} == set(list_datasets()) - OURS


@pytest.mark.parametrize("name", sorted(set(list_datasets()) - OURS))
class TestFacts:
    def test_classes(self, name):
        facts, dataset = facts_of(name), build_dataset(name, {})
        assert list(dataset.classes.names) == facts["classes"]
        assert [list(colour) for colour in dataset.classes.colours] == facts["palette"]
        mirror = list(range(len(dataset.classes)))
        for left, right in facts.get("flip_pairs", []):
            mirror[left], mirror[right] = right, left
        assert list(dataset.classes.mirror) == mirror

    def test_map(self, name):
        facts, dataset = facts_of(name), build_dataset(name, {})
        published = {int(raw): train for raw, train in facts.get("raw_to_train", {}).items()}
        default = facts.get("raw_default", IGNORE)
        for raw in dataset.known if published else ():
            assert dataset.train_ids[raw] == published.get(raw, default), raw
        assert {raw for raw in published if raw >= 0} <= dataset.known

    def test_split_sizes(self, name):
        facts, dataset = facts_of(name), build_dataset(name, {})
        splits = SPLITS.get(name, {split: (split,) for split in dataset.split_sizes})
        for published, ours in splits.items():
            assert sum(dataset.split_sizes[split] for split in ours) == facts["splits"][published]
        assert {split for ours in splits.values() for split in ours} == set(dataset.split_sizes)

    def test_archives(self, name):
        facts, dataset = facts_of(name), build_dataset(name, {})
        for archive in dataset.archives:
            assert set(archive.urls) <= set(facts["urls"])
            assert archive.size == facts.get("bytes", {}).get(archive.name)
            forms = [
                form for form in ("sha256", "sha1", "md5") if archive.name in facts.get(form, ())
            ]
            published = f"{forms[0]}:{facts[forms[0]][archive.name]}" if forms else ""
            assert archive.checksum == published, "the strongest that is published"


# --- from its archives to a batch ----------------------------------------------------------------


def test_every_published_dataset_has_a_miniature():
    assert set(list_miniatures()) == set(list_datasets()) - OURS


def miniature_of(name: str, folder: Path) -> tuple[Dataset, Expected]:
    """The dataset, told of the sizes and checksums of its miniature instead of the real ones."""
    expected = build_miniature(name, folder)
    dataset = build_dataset(name, expected.options)
    dataset.split_sizes = expected.split_sizes if dataset.split_sizes else {}
    for attribute, value in expected.attributes.items():
        assert hasattr(dataset, attribute)
        setattr(dataset, attribute, value)
    archives = list[Any]()
    for archive in dataset.archives:
        (path,) = (folder / "packed").glob(archive.name)
        content = path.read_bytes()
        checksum = f"sha256:{hashlib.sha256(content).hexdigest()}"
        archives.append(replace(archive, size=len(content), checksum=checksum))
    dataset.archives = tuple(archives)
    return dataset, expected


def check_shards(name: str, dataset: Dataset, raw: Path, folder: Path, expected: Expected) -> None:
    """Prepares the raw files; every sample, the class table and one batch must be right."""
    shards, planned = folder / "shards", sum(expected.split_sizes.values())
    done = list(prepare(name, dataset, raw, shards, folder / "work"))
    assert done[0] == sum(done[1:]) == planned
    manifest = Manifest.read(str(shards))
    assert manifest.classes == dataset.classes
    assert list(manifest.splits) == list(expected.samples)
    for split, samples in expected.samples.items():
        reader = ShardReader(str(shards), split)
        found = {sample.id: sample for sample in map(reader.__getitem__, range(len(reader)))}
        assert list(found) == list(samples)
        for sample_id, labels in samples.items():
            assert np.array_equal(found[sample_id].labels, labels), sample_id
            assert found[sample_id].image.shape == (3, *labels.shape)
    augmentation = Augmentation(crop=(32, 32), mirror=dataset.classes.mirror)
    stream = TrainingStream(ShardReader(str(shards), "train"), augmentation, seed=0)
    (batch,) = training_batches(stream, RankSteps(0, 1, 2, 0, 1))
    assert batch.images.shape == (2, 3, 32, 32)
    assert set(batch.labels.unique().tolist()) <= {*range(len(dataset.classes)), IGNORE}


@pytest.mark.parametrize("form", ["packed", "unpacked"])
@pytest.mark.parametrize("name", list_miniatures())
def test_from_the_drop_folder_to_a_batch(name, form, tmp_path):
    dataset, expected = miniature_of(name, tmp_path)
    drop = tmp_path / form
    if not drop.exists():
        assert form == "packed", "every dataset comes unpacked, too"
        assert not dataset.archives
        return
    before = {path: path.stat().st_mtime_ns for path in drop.rglob("*") if path.is_file()}
    inventory = download(dataset, tmp_path / "raw", drop)
    files = {(split, path) for split, path, *_ in inventory["files"]}
    assert {split for split, _ in files} == set(expected.samples)
    assert not any(Path(path).is_absolute() for _, path in files), "it must be below raw"
    check_shards(name, dataset, tmp_path / "raw", tmp_path, expected)
    after = {path: path.stat().st_mtime_ns for path in drop.rglob("*") if path.is_file()}
    assert before == after, "the drop folder belongs to the user"


@pytest.mark.parametrize("name", list_miniatures())
def test_from_a_server_that_breaks_off_to_a_batch(name, tmp_path, monkeypatch):
    """Each archive that has an address comes from a dead mirror first, then in two parts."""
    monkeypatch.setattr("segcore.acquisition.transfers.PAUSE", 0.0)
    dataset, expected = miniature_of(name, tmp_path)
    public = [one for one in dataset.archives if one.urls and not one.package]
    if not public:
        return  # of these a person brings the files
    with range_server() as server:
        archives, drop = list[Archive](), tmp_path / "drop"
        drop.mkdir()
        for archive in dataset.archives:
            path = tmp_path / "packed" / archive.name
            if archive not in public:
                shutil.copy(path, drop)
                archives.append(archive)
                continue
            content = path.read_bytes()
            server.files[f"/{path.name}"] = Served(content, breaks=[len(content) // 2])
            urls = (f"{server.url}/gone/{path.name}", f"{server.url}/{path.name}")
            archives.append(replace(archive, urls=urls))
        dataset.archives = tuple(archives)
        download(dataset, tmp_path / "raw", drop)
        for archive in public:
            first, second = server.asked(f"/{archive.name}")
            assert first == ""
            assert second.startswith("bytes=")
    check_shards(name, dataset, tmp_path / "raw", tmp_path, expected)
