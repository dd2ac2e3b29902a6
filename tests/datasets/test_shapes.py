import hashlib
from pathlib import Path

import numpy as np
import pytest
from sklearn.ensemble import RandomForestClassifier

from segcore.datasets.shapes import Shapes
from segcore.errors import InputError
from segcore.types import IGNORE


def drawn(dataset: Shapes, split: str) -> tuple[np.ndarray, np.ndarray]:
    samples = [dataset.draw(split, index) for index in range(dataset.split_sizes[split])]
    images, labels = zip(*samples, strict=True)
    return np.stack(images), np.stack(labels)


def digests(raw: Path) -> dict[str, str]:
    return {
        path.relative_to(raw).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(raw.rglob("*"))
        if path.is_file()
    }


@pytest.fixture(scope="module")
def val() -> tuple[np.ndarray, np.ndarray]:
    return drawn(Shapes(), "val")


def test_files_hold_what_is_drawn(tmp_path):
    dataset = Shapes(train=2, val=1, height=40, width=64)
    dataset.acquire(tmp_path, tmp_path)
    assert sorted(digests(tmp_path)) == [
        *("images/train/00000.png", "images/train/00001.png", "images/val/00000.png"),
        *("labels/train/00000.png", "labels/train/00001.png", "labels/val/00000.png"),
    ]
    pairs = dataset.pairs(tmp_path)
    assert {split: len(found) for split, found in pairs.items()} == dataset.split_sizes
    _, labels = dataset.draw("train", 1)
    assert labels.shape == (40, 64)
    assert (dataset.read_labels(pairs["train"][1].label) == labels).all()


def test_bytes_depend_on_seed_split_and_index_alone(tmp_path):
    few, many = Shapes(train=2, val=1), Shapes(train=3, val=2)
    many.acquire(tmp_path / "many", tmp_path)
    few.acquire(tmp_path / "few", tmp_path)
    before = digests(tmp_path / "few")
    assert before.items() <= digests(tmp_path / "many").items()
    few.acquire(tmp_path / "few", tmp_path)
    assert digests(tmp_path / "few") == before
    assert len(set(before.values())) == len(before)


def test_seeds_and_splits_draw_different_scenes():
    first, _ = Shapes().draw("train", 0)
    assert (first != Shapes(seed=1).draw("train", 0)[0]).mean() > 0.5
    assert (first != Shapes().draw("val", 0)[0]).mean() > 0.5


def test_every_class_is_in_enough_images_and_some_are_rare(val):
    _, labels = val
    classes = len(Shapes().classes)
    assert classes >= 8
    assert set(np.unique(labels)) == {*range(classes), IGNORE}
    present = [(labels == index).any(axis=(1, 2)).mean() for index in range(classes)]
    assert min(present) > 0.5
    shares = [(labels == index).mean() for index in range(classes)]
    assert min(shares) < 0.04
    assert 0.04 < (labels == IGNORE).mean() < 0.12


def test_void_is_one_pixel_between_classes(val):
    """Two different classes never touch, and no 3 x 3 block is void throughout."""
    _, labels = val
    for one, other in (
        (labels[:, 1:], labels[:, :-1]),
        (labels[:, :, 1:], labels[:, :, :-1]),
    ):
        assert ((one == other) | (one == IGNORE) | (other == IGNORE)).all()
    blocks = np.lib.stride_tricks.sliding_window_view(labels == IGNORE, (3, 3), axis=(1, 2))
    assert blocks.all(axis=(3, 4)).mean() < 1e-3


def test_poles_are_thin(val):
    """The median run of pole pixels along a row is 2 to 5 pixels wide."""
    _, labels = val
    pole = np.pad(labels == Shapes().classes.names.index("pole"), ((0, 0), (0, 0), (1, 1)))
    edges = np.diff(pole.astype(np.int8), axis=2)
    widths = np.argwhere(edges == -1)[:, 2] - np.argwhere(edges == 1)[:, 2]
    assert 2 <= np.median(widths) <= 5


def test_light_varies(val):
    images, _ = val
    brightness = images.mean(axis=(1, 2, 3))
    assert brightness.max() > 1.5 * brightness.min()


def test_larger_images_show_the_same_scene():
    """Lengths are fractions of the height, so twice the pixels is the same layout, finer."""
    _, small = Shapes().draw("val", 3)
    _, large = Shapes(height=192, width=256).draw("val", 3)
    assert large.shape == (192, 256)
    sky = [(labels == 0).mean() for labels in (small, large)]
    assert sky[0] == pytest.approx(sky[1], abs=0.06)


@pytest.mark.long
def test_colour_and_position_do_not_give_the_class_away(val):
    """A strong classifier of single pixels on (R, G, B, x, y) stays below 0.35 mIoU."""
    dataset = Shapes()
    (images, labels), (val_images, val_labels) = drawn(dataset, "train"), val
    features, targets = pixels(images, labels)
    chosen = np.random.default_rng(0).choice(len(targets), 100_000, replace=False)
    forest = RandomForestClassifier(40, min_samples_leaf=4, max_samples=0.5, random_state=0)
    forest.fit(features[chosen], targets[chosen])
    val_features, val_targets = pixels(val_images, val_labels)
    score = mean_iou(forest.predict(val_features), val_targets, len(dataset.classes))
    assert 0.1 < score < 0.35, "below 0.1 the classifier itself would be broken"


def pixels(images: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    rows, columns = np.mgrid[: labels.shape[1], : labels.shape[2]]
    place = np.broadcast_to(np.stack([columns, rows], axis=-1), (*labels.shape, 2))
    features = np.concatenate([images, place], axis=-1).astype(np.float32)
    return features[labels != IGNORE], labels[labels != IGNORE]


def mean_iou(predicted: np.ndarray, targets: np.ndarray, classes: int) -> float:
    both = [((predicted == k) & (targets == k)).sum() for k in range(classes)]
    either = [((predicted == k) | (targets == k)).sum() for k in range(classes)]
    return float(np.mean(np.array(both) / np.array(either)))


@pytest.mark.parametrize(
    ("option", "value"),
    [("train", 0), ("val", -1), ("height", 31), ("seed", -1), ("seed", True)],
)
def test_nonsense_is_refused(option, value):
    with pytest.raises(InputError, match=f"dataset shapes: {option} is {value!r}; give a whole"):
        Shapes(**{option: value})
