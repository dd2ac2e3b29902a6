import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from segcore.errors import InputError
from segcore.formats.coco import (
    decode_runs,
    draw_instance,
    fill_polygon,
    read_instances,
    unpack_runs,
)

POLYGONS = json.loads((Path(__file__).parents[1] / "golden/coco_polygons.json").read_text())
"""Random polygons, some beyond the image, with the masks that pycocotools 2.0.11 draws of them."""


@pytest.mark.parametrize("number", range(len(POLYGONS)))
def test_polygons_are_those_of_pycocotools(number):
    case = POLYGONS[number]
    size = case["height"], case["width"]
    mask = fill_polygon(np.array(case["points"]), *size)
    assert mask.shape == size
    assert mask.sum() == case["pixels"]
    assert np.array_equal(mask, decode_runs(case["runs"], *size))


def test_the_polygons_on_record_are_no_easy_ones():
    points = [point for case in POLYGONS for point in case["points"]]
    assert len(POLYGONS) == 24
    assert sum(case["pixels"] > 50 for case in POLYGONS) > 15
    assert any(x < 0 or y < 0 for x, y in points)
    assert any(x > case["width"] for case in POLYGONS for x, _ in case["points"])


def test_edges_between_pixels_hold_what_they_surround():
    mask = fill_polygon(np.array([[2.0, 1.0], [6.0, 1.0], [6.0, 4.0], [2.0, 4.0]]), 5, 8)
    expected = np.zeros((5, 8), bool)
    expected[1:4, 2:6] = True
    assert np.array_equal(mask, expected)


def test_a_hole_drawn_along_the_same_walk_stays_a_hole():
    outer = [[0.0, 0.0], [9.0, 0.0], [9.0, 9.0], [0.0, 9.0], [0.0, 0.0]]
    inner = [[3.0, 3.0], [3.0, 6.0], [6.0, 6.0], [6.0, 3.0], [3.0, 3.0], [0.0, 0.0]]
    mask = fill_polygon(np.array(outer + inner), 9, 9)
    assert mask.sum() == 81 - 9
    assert not mask[3:6, 3:6].any()


def test_runs_go_down_the_columns_and_begin_outside():
    expected = [[0, 0, 1], [0, 1, 1]]  # by hand: columns 00, 01, 11
    assert decode_runs([3, 3], 2, 3).astype(int).tolist() == expected
    assert decode_runs([0, 6], 2, 3).all()
    assert not decode_runs([6], 2, 3).any()


def test_packed_runs_by_hand():
    # 5 -> "5"; 3 -> "3"; 40 = 8 + 32 * 1 -> 8 + more, 1 -> "X1"; 1 - 3 = -2 -> 30 -> "N"
    assert unpack_runs("53X1N") == [5, 3, 40, 1]


@pytest.mark.parametrize("counts", [[3, 2], [3, 4], [-1, 7], [], [7, -1], [1 << 70]])
def test_runs_that_do_not_fit_are_refused(counts):
    with pytest.raises(ValueError, match="do not fit an image of 3x2"):
        decode_runs(counts, 2, 3)


def test_parts_of_an_object_are_joined():
    parts = [[0, 0, 2, 0, 2, 2, 0, 2], [1, 1, 4, 1, 4, 3, 1, 3]]
    mask = draw_instance(parts, 4, 5)
    expected = np.zeros((4, 5), bool)
    expected[:2, :2] = expected[1:3, 1:4] = True
    assert np.array_equal(mask, expected)
    assert np.array_equal(
        draw_instance({"counts": [19, 1], "size": [4, 5]}, 4, 5).nonzero(), [[3], [4]]
    )


def annotations(**changes: Any) -> dict[str, Any]:
    images = [{"id": n, "file_name": f"{n:03d}.jpg", "height": 4, "width": 5} for n in (7, 3)]
    polygon = [[0.5, 0, 2, 0, 2, 2]]
    listed = [
        {"image_id": 3, "category_id": 1, "segmentation": polygon},
        {"image_id": 7, "category_id": 9, "segmentation": polygon},
        {"image_id": 3, "category_id": 2, "segmentation": {"counts": [20], "size": [4, 5]}},
    ]
    return {"images": images, "annotations": listed} | changes


def test_instances_are_read_in_order_and_others_dropped(tmp_path):
    path = tmp_path / "instances.json"
    path.write_text(json.dumps(annotations()))
    first, second = read_instances(path, frozenset({1, 2}))
    assert first[:3] == ("003.jpg", 4, 5)
    assert [instance.category for instance in first.instances] == [1, 2]
    assert first.instances[0].segmentation[0].tolist() == [0.5, 0, 2, 0, 2, 2]
    assert first.instances[1].segmentation == {"counts": [20], "size": [4, 5]}
    assert second[:1] == ("007.jpg",)
    assert not second.instances


@pytest.mark.parametrize(
    "text",
    [
        json.dumps(annotations())[:-9],
        "",
        json.dumps({"images": []}),
        json.dumps(annotations(images=[])),
        json.dumps(annotations(annotations=[{"segmentation": []}])),
        json.dumps(annotations(images=[[]])),
        json.dumps(annotations(annotations=[{"category_id": 1, "segmentation": {"size": [4, 5]}}])),
        json.dumps(annotations(annotations=[{"category_id": 1, "segmentation": {"counts": 20}}])),
        json.dumps(annotations(annotations=[{"category_id": 1, "segmentation": [["x", 1]]}])),
        json.dumps(annotations(annotations=[{"category_id": 1, "segmentation": None}])),
        "[]",
    ],
)
def test_a_file_that_is_not_whole_is_named(tmp_path, text):
    path = tmp_path / "instances.json"
    path.write_text(text)
    with pytest.raises(InputError, match=rf"^{re.escape(str(path))} is no whole COCO annotation"):
        read_instances(path, frozenset({1}))
    path.unlink()
    with pytest.raises(InputError, match="is missing"):
        read_instances(path, frozenset({1}))


@pytest.mark.parametrize("far", [1e9, -1e12, np.nan])
def test_an_outline_that_leads_nowhere_is_refused_before_it_is_walked(far):
    points = np.array([[2, 1], [far, 1], [6, 4]], np.float64)
    with pytest.raises(ValueError, match="leads far out of the image"):
        fill_polygon(points, 8, 10)
