import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from segcore.errors import InputError
from segcore.formats.polygons import draw, split_annotations
from segcore.types import IGNORE

TRAIN_ID_OF = {"road": 0, "car": 1, "truck": 1, "ego": IGNORE}
SQUARE = [2, 1, 6, 1, 6, 4, 2, 4]
"""x, y: the corners (2, 1) to (6, 4)."""


def write(path: Path, value: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(value if isinstance(value, str) else json.dumps(value))
    return path


def corners(*flat: float) -> list[list[float]]:
    return np.reshape(flat, (-1, 2)).tolist()


def outlined(folder: Path, *objects: dict[str, Any], height: int = 8, width: int = 10) -> Path:
    content = {"imgHeight": height, "imgWidth": width, "objects": list(objects)}
    return write(folder / "a_polygons.json", content)


def rectangle(top: int, bottom: int, left: int, right: int, value: int) -> np.ndarray:
    labels = np.full((8, 10), IGNORE)
    labels[top : bottom + 1, left : right + 1] = value
    return labels


def test_a_polygon_covers_its_outline_and_a_segmentation_does_not(tmp_path):
    """By hand: Pillow's fill (so cityscapesScripts') takes row 4 and column 6; COCO's does not."""
    path = outlined(tmp_path, {"label": "car", "polygon": corners(*SQUARE)})
    assert draw(path, TRAIN_ID_OF, IGNORE).tolist() == rectangle(1, 4, 2, 6, 1).tolist()
    path = outlined(tmp_path, {"label": "car", "segmentation": [SQUARE]})
    assert draw(path, TRAIN_ID_OF, IGNORE).tolist() == rectangle(1, 3, 2, 5, 1).tolist()


def test_the_later_object_lies_over_the_earlier_and_deleted_ones_are_not_there(tmp_path):
    wide = {"label": "road", "polygon": corners(0, 0, 9, 0, 9, 7, 0, 7)}
    car = {"label": "car", "polygon": corners(*SQUARE)}
    ego = {"label": "ego", "segmentation": [[0, 6, 10, 6, 10, 8, 0, 8]]}
    gone = {"label": "nobody knows", "polygon": corners(*SQUARE), "deleted": 1}
    expected = np.zeros((8, 10))
    expected[1:5, 2:7], expected[6:] = 1, IGNORE
    found = draw(outlined(tmp_path, wide, car, ego, gone), TRAIN_ID_OF, IGNORE)
    assert found.tolist() == expected.tolist()
    assert not draw(outlined(tmp_path, car, wide), TRAIN_ID_OF, IGNORE).any()


def test_a_star_equals_a_slow_inside_test(tmp_path):
    """Away from its edges, a pixel is inside if a ray from it crosses the outline oddly often."""
    turns = np.arange(10) * 0.2 * np.pi
    radius = np.where(np.arange(10) % 2, 14.0, 30.0)
    points = np.stack([40 + radius * np.cos(turns), 35 + radius * np.sin(turns)], 1)
    path = outlined(tmp_path, {"label": "road", "polygon": points.tolist()}, height=70, width=80)
    found = draw(path, TRAIN_ID_OF, IGNORE) == 0
    checked = 0
    for y, x in np.ndindex(70, 80):
        inside, near = False, False
        for (x0, y0), (x1, y1) in zip(points, np.roll(points, -1, 0), strict=True):
            if (y0 > y) != (y1 > y) and x < (x1 - x0) * (y - y0) / (y1 - y0) + x0:
                inside = not inside
            share = (x - x0) * (x1 - x0) + (y - y0) * (y1 - y0)
            along = np.clip(share / ((x1 - x0) ** 2 + (y1 - y0) ** 2), 0, 1)
            near |= np.hypot(x0 + along * (x1 - x0) - x, y0 + along * (y1 - y0) - y) < 1.5
        if not near:
            checked += 1
            assert found[y, x] == inside, (y, x)
    assert checked > 4000
    assert 700 < found.sum() < 1500


def test_background_and_runs(tmp_path):
    """Runs go down the columns: 9 outside, 3 inside, 68 outside, in an image 8 high."""
    runs = {"counts": [9, 3, 68], "size": [8, 10]}
    path = outlined(tmp_path, {"label": "car", "segmentation": runs})
    expected = np.zeros((8, 10))
    expected[1:4, 1] = 1
    assert draw(path, TRAIN_ID_OF, 0).tolist() == expected.tolist()
    assert draw(outlined(tmp_path), TRAIN_ID_OF, 2).tolist() == np.full((8, 10), 2).tolist()


@pytest.mark.parametrize(
    ("thing", "message"),
    [
        ({"label": "tram", "polygon": corners(*SQUARE)}, r"add these .* 'tram' \(1 objects\)"),
        ({"label": "car", "polygon": corners(1, 2, 3, 4)}, r"objects\.0\.polygon: .*at least 3"),
        ({"label": "car"}, r"object 0 \(car\) has no polygon"),
        ({"polygon": corners(*SQUARE)}, r"objects\.0\.label: Field required"),
        (
            {"label": "car", "segmentation": [[1e9, *SQUARE[1:]]]},
            r"segmentation.*less than or equal",
        ),
        ({"label": "car", "segmentation": [[math.nan, *SQUARE[1:]]]}, r"segmentation.*finite"),
        ({"label": "car", "polygon": corners(1, 2, 3, -math.inf, 1, 1)}, r"polygon.*finite"),
        ({"label": "car", "segmentation": [[1.5, *SQUARE]]}, "object 0: "),
        ({"label": "car", "segmentation": {"counts": [1, 2], "size": [8, 10]}}, "object 0: runs"),
    ],
)
def test_what_cannot_be_drawn_is_named(tmp_path, thing, message):
    with pytest.raises(InputError, match=r"a_polygons\.json: .*" + message):
        draw(outlined(tmp_path, thing), TRAIN_ID_OF, IGNORE)


@pytest.mark.parametrize("size", [0, -3, 1 << 20])
def test_an_impossible_size_is_refused_before_memory_is_taken(tmp_path, size):
    with pytest.raises(InputError, match=r"imgHeight: Input should be"):
        draw(outlined(tmp_path, height=size), TRAIN_ID_OF, IGNORE)


def test_a_size_beyond_all_measure_is_refused_before_memory_is_taken(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 80)
    assert draw(outlined(tmp_path), TRAIN_ID_OF, IGNORE).shape == (8, 10)
    with pytest.raises(InputError, match=r"_polygons\.json: 11x8 is more than 80 pixels"):
        draw(outlined(tmp_path, width=11), TRAIN_ID_OF, IGNORE)


@pytest.mark.parametrize("nothing", [[], [[]], [[1, 2, 3, 4]], [1, 2, 3, 4]])
def test_an_object_without_outline_covers_nothing(tmp_path, nothing):
    thing = {"label": "car", "segmentation": nothing}
    assert (draw(outlined(tmp_path, thing), TRAIN_ID_OF, IGNORE) == IGNORE).all()
    thing = {"label": "car", "segmentation": [SQUARE, [3, 3]]}
    assert (draw(outlined(tmp_path, thing), TRAIN_ID_OF, IGNORE) == 1).sum() == 12
    things = annotations(tmp_path)
    content = json.loads(things.read_text())
    content["annotations"][0]["segmentation"] = nothing
    write(things, content)
    target = tmp_path / "east.json"
    assert split_annotations(things, {Path("/photos/east/1.jpg"): target}) == 1
    assert (draw(target, TRAIN_ID_OF, IGNORE) == IGNORE).all()


def test_a_cut_file_is_named(tmp_path):
    path = write(tmp_path / "cut.json", '{"imgHeight": 8, "imgWi')
    with pytest.raises(InputError, match=r"cut\.json: the file: Invalid JSON"):
        draw(path, TRAIN_ID_OF, IGNORE)
    with pytest.raises(InputError, match=r"gone\.json is missing"):
        draw(tmp_path / "gone.json", TRAIN_ID_OF, IGNORE)


# --- COCO's one file -----------------------------------------------------------------------------


def annotations(folder: Path, **changes: Any) -> Path:
    content = {
        "images": [
            {"id": 7, "file_name": "east/1.jpg", "height": 8, "width": 10},
            {"id": 9, "file_name": "west/1.jpg", "height": 8, "width": 10},
            {"id": 8, "file_name": "images/2.jpg", "height": 6, "width": 5},
        ],
        "annotations": [
            {"id": 1, "image_id": 7, "category_id": 3, "segmentation": [SQUARE], "iscrowd": 0},
            {"id": 2, "image_id": 9, "category_id": 5, "segmentation": [SQUARE], "area": 12.5},
        ],
        "categories": [{"id": 3, "name": "car"}, {"id": 5, "name": "road", "supercategory": "x"}],
    }
    return write(folder / "annotations.json", content | changes)


def test_every_image_gets_its_own_objects(tmp_path):
    images = {Path(f"/photos/{name}.jpg"): name for name in ("east/1", "west/1", "2")}
    targets = {image: tmp_path / f"out/{name}.json" for image, name in images.items()}
    split_annotations(annotations(tmp_path), targets)
    east, west, other = (draw(path, TRAIN_ID_OF, IGNORE) for path in targets.values())
    assert east.tolist() == rectangle(1, 3, 2, 5, 1).tolist()
    assert west.tolist() == rectangle(1, 3, 2, 5, 0).tolist()
    assert other.tolist() == np.full((6, 5), IGNORE).tolist(), "no object, known by its name"
    before = [path.read_bytes() for path in targets.values()]
    split_annotations(annotations(tmp_path), targets)
    assert [path.read_bytes() for path in targets.values()] == before


def test_all_images_that_a_file_does_not_know_are_told(tmp_path):
    targets = {Path(f"/photos/{name}.jpg"): tmp_path / f"{name}.json" for name in "2xy"}
    with pytest.raises(InputError) as caught:
        split_annotations(annotations(tmp_path), targets)
    first, second = str(caught.value).splitlines()
    assert "/photos/x.jpg is not in its images; correct file_name" in first
    assert second == "  /photos/y.jpg is not in its images"


@pytest.mark.parametrize(
    ("image", "changes", "message"),
    [
        ("3.jpg", {}, r"/3\.jpg is not in its images"),
        ("north/1.jpg", {}, r"north/1\.jpg has 2 entries in its images"),
        ("2.jpg", {"categories": []}, "annotation 0 has category 3, which is not listed"),
        ("2.jpg", {"images": [{"id": 1}]}, r"images\.0\.file_name: Field required \(and 2 more\)"),
        (
            "2.jpg",
            {"annotations": [{"image_id": 8, "category_id": 3, "bbox": [0, 0, 4, 4]}]},
            r"annotations\.0\.segmentation: Field required",
        ),
    ],
)
def test_a_file_that_does_not_fit_is_refused_whole(tmp_path, image, changes, message):
    targets = {Path("/photos/2.jpg"): tmp_path / "2.json", Path("/photos", image): tmp_path / "x"}
    with pytest.raises(InputError, match=r"annotations\.json: .*" + message):
        split_annotations(annotations(tmp_path, **changes), targets)
    assert not (tmp_path / "2.json").exists()
