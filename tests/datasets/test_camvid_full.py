import os
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from segcore.datasets import build_dataset
from segcore.datasets.camvid_full import read_colours, split_of
from segcore.errors import InputError
from segcore.files import read_json
from segcore.preparation import prepare
from segcore.shards import MANIFEST
from segcore.tables import DatasetTable
from segcore.types import IGNORE
from tests.datasets.miniatures import camvid_full
from tests.datasets.test_contract import facts_of


def test_colours_mean_what_is_published():
    facts, table = facts_of("camvid_full"), read_colours()
    published = dict[int, int]()
    for colour, train_id in facts["rgb_to_train"].items():
        red, green, blue = map(int, colour.split(","))
        published[red << 16 | green << 8 | blue] = train_id
    assert dict(zip(table.codes.tolist(), table.train_ids.tolist(), strict=True)) == published
    assert len(published) == 32


def test_raw_ids_are_places_in_the_publishers_list():
    facts, dataset = facts_of("camvid_full"), build_dataset("camvid_full", {})
    assert dataset.train_ids[:32].tolist() == list(facts["rgb_to_train"].values())
    assert dataset.known == set(range(32))


def test_a_stray_colour_is_refused_unless_the_option_says_ignore(tmp_path):
    expected = camvid_full.build(tmp_path)
    path = tmp_path / "unpacked/LabeledApproved_full/Seq05VD_f02610_L.png"
    refusing = build_dataset("camvid_full", {})
    message = r"Seq05VD_f02610_L\.png: .*\(1, 2, 3\) \(5 pixels\); .*unknown_colour to ignore"
    with pytest.raises(InputError, match=message):
        refusing.read_labels(path)
    refusing.split_sizes = expected.split_sizes
    raw, shards, work = (tmp_path / name for name in ("unpacked", "shards", "work"))
    with pytest.raises(InputError, match=message):
        list(prepare("camvid_full", refusing, raw, shards, work))
    labels = build_dataset("camvid_full", expected.options).read_labels(path)
    assert np.array_equal(labels, expected.samples["test"]["Seq05VD_f02610"])
    assert labels[3, 4:9].tolist() == [IGNORE] * 5
    with pytest.raises(InputError, match="unknown_colour: 'drop' is neither refuse nor ignore"):
        build_dataset("camvid_full", {"unknown_colour": "drop"})


def test_the_manifest_records_that_colours_were_ignored(tmp_path):
    expected = camvid_full.build(tmp_path)
    dataset = build_dataset("camvid_full", expected.options)
    dataset.split_sizes = expected.split_sizes
    raw, shards, work = (tmp_path / name for name in ("unpacked", "shards", "work"))
    table = DatasetTable(options=expected.options)
    list(prepare("camvid_full", dataset, raw, shards, work, table))
    assert read_json(shards / MANIFEST)["options"] == {"unknown_colour": "ignore"}


def test_the_published_frames_are_split_as_in_the_tutorial():
    """Every frame of the four films, by their published first, last and distance."""
    films = {
        "0001TP_{:06d}": range(6690, 10381, 30),
        "0006R0_f{:05d}": range(930, 3931, 30),
        "Seq05VD_f{:05d}": range(0, 5101, 30),
        "0016E5_{:05d}": [*range(7959, 8160, 2)],
    }
    stems = [name.format(number) for name, numbers in films.items() for number in numbers]
    counts = Counter(split_of(Path(f"{stem}.png")) for stem in stems)
    assert counts == {"train": 62 + 101, "val": 101, "test": 62 + 171}
    assert build_dataset("camvid_full", {}).split_sizes["train"] == 62 + 101 + 204


@pytest.mark.parametrize("stem", ["0099XX_000001", "0001TP", "0016E5_x", "DSC_0001"])
def test_a_foreign_image_is_named(stem):
    with pytest.raises(InputError, match=f"{stem}.png is no frame of CamVid; remove it"):
        split_of(Path(f"{stem}.png"))


@pytest.mark.skipif("SEGCORE_CAMVID" not in os.environ, reason="SEGCORE_CAMVID names no real copy")
def test_real_lists():
    raw = Path(os.environ["SEGCORE_CAMVID"])
    for split, pairs in build_dataset("camvid", {}).pairs(raw).items():
        assert {split_of(pair.image) for pair in pairs} == {split}
