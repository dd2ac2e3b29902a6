import hashlib
from math import log

import numpy as np
import pytest
from PIL import Image

from segcore.preparation.audit import (
    build_manifest,
    content_hash,
    counted,
    described,
    inverse_log,
    median_frequency,
    same_pictures,
    summed,
)
from segcore.tables import DatasetTable
from segcore.types import IGNORE, ClassTable

CLASSES = ClassTable(("road", "sky"), ((1, 2, 3), (4, 5, 6)), (0, 1))


def part_of(name, rows, sizes, counts, **rest):
    shard = {"name": name, "sha256": name * 2, "rows": rows}
    part = {"shard": shard, "sizes": sizes, "counts": counts, "problems": []}
    return part | {"contents": [], "unlabelled": []} | rest


def counts_of(pixels, void, channels, beside, unlabelled=0):
    return {
        "pixels": pixels,
        "void_pixels": void,
        "overlap_pixels": 0,
        "images_with": [1, 0],
        "pixels_beside": beside,
        "unlabelled_images": unlabelled,
        "channels": channels,
    }


def test_manifest_merges_shards_by_hand_values():
    # four pixels of 0, 2, 4, 6 in red, of 1 in green, of 0 and 10 in blue
    parts = [
        part_of("a", 1, [[1, 2, 1]], counts_of([1, 0], 1, [[2, 2, 0], [4, 2, 0]], [2, 0])),
        part_of(
            "b",
            2,
            [[2, 1, 1], [3, 5, 1]],
            counts_of([0, 1], 1, [[10, 2, 20], [52, 2, 200]], [0, 2], 1),
            unlabelled=["u"],
            problems=[["x", "x.png is missing"]],
        ),
        part_of("c", 0, [], {}, problems=[["y", "y.png is missing"]]),
    ]
    table = DatasetTable(options={"unknown_colour": "ignore"}, max_side=99, skip_bad=2)
    same, notes = [[("val", "x"), ("val", "y")]], ["9 files fit no pattern"]
    manifest = build_manifest("toy", CLASSES, "CC0", table, {"val": parts}, same, notes)
    assert manifest["same_pictures"]["within_splits"] == 1
    assert manifest["options"] == {"unknown_colour": "ignore"}
    treatment = {"max_side": 99, "image_format": "keep", "tile": None, "skip_bad": 2}
    assert manifest["treatment"] == treatment
    assert manifest["data_hash"] == hashlib.sha256(b"aa  a\nbb  b\n").hexdigest()
    assert manifest["skipped"] == [
        {"split": "val", "id": name, "reason": f"{name}.png is missing"} for name in "xy"
    ]
    entry = manifest["splits"]["val"]
    assert entry["images"] == 3
    assert entry["pixels"] == [1, 1]
    assert entry["void_pixels"] == 2
    assert entry["ignored"] == 0.5
    assert entry["absent"] == []
    assert entry["images_with"] == [2, 0]
    assert entry["unlabelled_images"] == 1
    assert entry["unlabelled"] == ["u"]
    assert entry["mean"] == [3.0, 1.0, 5.0]
    assert entry["std"] == [2.2361, 0.0, 5.0]
    assert (entry["smallest"], entry["largest"]) == ([1, 1], [3, 5])
    assert entry["sizes"] == 3
    assert entry["commonest_sizes"] == [[1, 2, 1], [2, 1, 1], [3, 5, 1]]
    assert [shard["name"] for shard in entry["shards"]] == ["a", "b"]
    assert entry["class_weights"]["median_frequency"] == [1.0, 1.0]
    assert described(manifest) == [
        "val: 3 images; 50.00 % not labelled; 1 without any label (first: u)",
        "1 picture(s) stand more than once within splits",
        "  the same picture: val/x, val/y",
        "9 files fit no pattern",
        "left out val/x: x.png is missing",
        "left out val/y: y.png is missing",
    ]


def test_counts_equal_a_slow_recount():
    generator = np.random.default_rng(0)
    pixels = generator.integers(0, 256, (5, 7, 3), np.uint8)
    labels = generator.choice(np.array([0, 2, IGNORE], np.uint8), (5, 7))
    found = counted(labels, pixels, 4, overlap=3)
    values = labels.ravel().tolist()
    assert found["pixels"].tolist() == [values.count(k) for k in range(4)]
    assert found["void_pixels"] == values.count(IGNORE) - 3
    assert found["images_with"].tolist() == [True, False, True, False]
    assert found["pixels_beside"].tolist() == [32, 0, 32, 0]
    flat = pixels.reshape(-1, 3).astype(int)
    assert found["channels"].tolist() == [flat.sum(0).tolist(), (flat**2).sum(0).tolist()]
    assert not found["unlabelled_images"]
    assert counted(np.full((5, 7), IGNORE, np.uint8), pixels, 4)["unlabelled_images"]
    assert summed([found, found])["pixels"] == [2 * values.count(k) for k in range(4)]
    with pytest.raises(AssertionError, match="no train ids"):
        counted(np.full((5, 7), 4, np.uint8), pixels, 4)


def test_class_weights_by_hand():
    # shares of the images that hold them: 8/16, 1/4, 6/8, and one that never occurs
    found = median_frequency([8, 1, 6, 0], [16, 4, 8, 0])
    assert found == pytest.approx([1.0, 2.0, 0.5 / 0.75, 0.0], abs=1e-6)
    assert median_frequency([0, 0], [0, 0]) == [0.0, 0.0]
    found = inverse_log([3, 1, 0])
    assert found == pytest.approx([1 / log(1.77), 1 / log(1.27), 1 / log(1.02)], abs=1e-6)


def test_content_is_the_picture_not_its_encoding_and_one_colour_is_no_content():
    image = np.random.default_rng(0).integers(0, 256, (4, 6, 3), np.uint8)
    assert content_hash(image) == content_hash(np.asfortranarray(image))
    assert content_hash(image) != content_hash(image.reshape(6, 4, 3))
    other = image.copy()
    other[3, 5, 2] ^= 1
    assert content_hash(image) != content_hash(other)
    assert content_hash(np.full((4, 6, 3), 9, np.uint8)) == ""
    assert content_hash(np.asarray(Image.new("RGB", (4, 4), (1, 2, 3)))) == ""


def test_the_same_picture_is_found_across_splits_first():
    def split(*seen):
        return [part_of("s", 1, [], {}, contents=[list(pair)]) for pair in seen]

    groups = same_pictures(
        {
            "train": split(("a", "1"), ("b", "2"), ("c", "2"), ("d", "")),
            "val": split(("e", "1"), ("f", ""), ("g", "3")),
        }
    )
    assert groups == [[("train", "a"), ("val", "e")], [("train", "b"), ("train", "c")]]
