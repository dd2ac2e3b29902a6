"""Against scikit-learn, torchmetrics, and values that one can check by hand."""

import json

import numpy as np
import pytest
import torch
from sklearn.metrics import accuracy_score, balanced_accuracy_score, jaccard_score, recall_score
from sklearn.metrics import confusion_matrix as reference_matrix
from torchmetrics.functional.classification import (
    multiclass_confusion_matrix,
    multiclass_jaccard_index,
)

from segcore.errors import InputError
from segcore.metrics import FIGURES, Scores, confusion_matrix, counts_of
from segcore.types import IGNORE

NAMES = ("road", "sky", "tree", "car", "sign")


def random_maps(absent: int | None = None) -> tuple[torch.Tensor, torch.Tensor]:
    """Labels with void pixels and predictions that are right half of the time."""
    generator = np.random.default_rng(3)
    labels = generator.integers(0, 5, (4, 17, 23))
    if absent is not None:
        labels[labels == absent] = (absent + 1) % 5
    guessed = np.where(generator.random(labels.shape) < 0.5, labels, generator.integers(0, 5))
    labels[generator.random(labels.shape) < 0.2] = IGNORE
    return torch.tensor(labels, dtype=torch.uint8), torch.tensor(guessed, dtype=torch.uint8)


@pytest.mark.parametrize("absent", [None, 3])
def test_scores_are_scikit_learns(absent):
    labels, predicted = random_maps(absent)
    matrix = confusion_matrix(labels, predicted, 5)
    kept = labels != IGNORE
    true, found = labels[kept].numpy(), predicted[kept].numpy()
    np.testing.assert_array_equal(matrix, reference_matrix(true, found, labels=range(5)))
    scores, present = Scores(matrix.numpy()), np.unique(true)
    seen = np.union1d(true, found)  # a class that is only predicted has an IoU, 0
    iou = jaccard_score(true, found, labels=seen, average=None)
    recall = recall_score(true, found, labels=present, average=None)
    np.testing.assert_allclose(scores.iou[seen], iou, rtol=1e-12)
    np.testing.assert_allclose(scores.accuracy[present], recall, rtol=1e-12)
    assert scores.miou == pytest.approx(iou.mean(), rel=1e-12)
    assert scores.mean_accuracy == pytest.approx(recall.mean(), rel=1e-12)
    assert scores.pixel_accuracy == pytest.approx(accuracy_score(true, found), rel=1e-12)
    if absent is None:
        balanced = balanced_accuracy_score(true, found)
        assert scores.mean_accuracy == pytest.approx(balanced, rel=1e-12)
    else:
        assert np.isnan(scores.iou[absent])
        assert np.isnan(scores.accuracy[absent])


@pytest.mark.parametrize("absent", [None, 3])
@pytest.mark.parametrize("size", [(1, 1), (17, 31), (128, 257)])
@pytest.mark.parametrize("classes", [5, 19, 150])
def test_the_matrix_and_its_scores_are_those_of_torchmetrics(classes, size, absent):
    generator = np.random.default_rng([classes, *size])
    labels, predicted = (
        torch.tensor(generator.integers(0, classes, (3, *size)), dtype=torch.uint8) for _ in "ab"
    )
    labels[torch.tensor(generator.random((3, *size)) < 0.2)] = IGNORE
    if absent is not None:
        labels[labels == absent] = IGNORE
    theirs = multiclass_confusion_matrix(
        predicted.long(), labels.long(), classes, ignore_index=IGNORE
    )
    ours = confusion_matrix(labels, predicted, classes)
    assert torch.equal(ours, theirs)
    each = multiclass_jaccard_index(
        predicted.long(), labels.long(), classes, average=None, ignore_index=IGNORE
    )
    seen = (theirs.sum(0) + theirs.sum(1)).numpy() > 0  # elsewhere torchmetrics says 0
    iou = Scores(ours.numpy()).iou
    np.testing.assert_allclose(iou[seen], each.numpy()[seen], rtol=1e-6)  # theirs is float32
    assert np.isnan(iou[~seen]).all()


def test_by_hand():
    labels = torch.tensor([[0, 0, 0, 1], [1, 1, IGNORE, IGNORE]])
    predicted = torch.tensor([[0, 0, 1, 1], [1, 2, 2, 0]])
    matrix = confusion_matrix(labels, predicted, 4)
    assert matrix.tolist() == [[2, 1, 0, 0], [0, 2, 1, 0], [0, 0, 0, 0], [0, 0, 0, 0]]
    assert matrix.dtype == torch.int64
    scores = Scores(matrix.numpy())
    # Class 0: 2 of 3; class 1: 2 of 4, one pixel too many and one too few; class 2 has no label
    # and a prediction: that is an error, as Cityscapes counts. Class 3 is nowhere.
    assert scores.as_dict(("a", "b", "c", "d")) == {
        "miou": pytest.approx((2 / 3 + 2 / 4 + 0) / 3),
        "pixel_accuracy": pytest.approx(4 / 6),
        "mean_accuracy": pytest.approx(2 / 3),
        "frequency_weighted_iou": pytest.approx((3 * 2 / 3 + 3 * 2 / 4) / 6),
        "ade20k_score": pytest.approx((4 / 6 + (2 / 3 + 2 / 4) / 3) / 2),
        "iou": [pytest.approx(2 / 3), 0.5, 0.0, None],
        "accuracy": [pytest.approx(2 / 3), pytest.approx(2 / 3), None, None],
        "absent": ["d"],
        "confusion": matrix.tolist(),
    }


def test_perfect_and_wholly_wrong():
    labels = torch.arange(5).repeat(3)
    assert Scores(confusion_matrix(labels, labels, 5).numpy()).miou == 1
    assert Scores(confusion_matrix(labels, (labels + 1) % 5, 5).numpy()).miou == 0


def test_nothing_labelled():
    labels = torch.full((2, 3), IGNORE)
    scores = Scores(confusion_matrix(labels, torch.ones(2, 3, dtype=torch.int64), 5).numpy())
    values = scores.as_dict(NAMES)
    assert scores.confusion.sum() == 0
    assert (scores.miou, scores.pixel_accuracy, scores.mean_accuracy) == (0, 0, 0)
    assert values["iou"] == [None] * 5
    assert values["absent"] == list(NAMES)  # what is predicted where nothing is known is no error
    assert json.loads(json.dumps(values, allow_nan=False)) == values


def test_matrices_of_parts_add_up():
    labels, predicted = random_maps()
    parts = [confusion_matrix(*pair, 5) for pair in zip(labels, predicted, strict=True)]
    assert torch.equal(torch.stack(parts).sum(0), confusion_matrix(labels, predicted, 5))


def test_what_is_no_class_is_refused():
    few, many = torch.tensor([0, 1, 3]), torch.tensor([0, 5, 3])
    with pytest.raises(InputError, match="predicted class 5 where there are 4 classes"):
        confusion_matrix(few, many, 4)
    with pytest.raises(InputError, match="label 5 where there are 4 classes"):
        confusion_matrix(many, few, 4)
    with pytest.raises(InputError, match="label 300 where there are 4 classes"):
        confusion_matrix(torch.tensor([1, 300]), torch.tensor([1, 1]), 4)
    with pytest.raises(InputError, match="predicted class -1 where there are 4 classes"):
        confusion_matrix(torch.tensor([1, 2]), torch.tensor([1, -1]), 4)
    predicted = torch.tensor([0, 5, IGNORE])  # where nothing is known, anything may be predicted
    assert confusion_matrix(torch.full((3,), IGNORE), predicted, 4).sum() == 0


def test_more_pixels_than_a_float_counts():
    """OpenCV counts as float32: 2^24 and one pixel would be one too few."""
    labels = torch.zeros((1 << 24) + 3, dtype=torch.uint8)
    assert confusion_matrix(labels, labels, 2).tolist() == [[(1 << 24) + 3, 0], [0, 0]]


# --- the official scripts, to the last digit -----------------------------------------------------


def drawn(classes: int, left_out: set[int], size: tuple[int, int]) -> list[tuple[np.ndarray, ...]]:
    """Three label maps with void, and predictions of them; some classes are nowhere."""
    generator = np.random.default_rng(classes)
    kept = np.array([k for k in range(classes) if k not in left_out])
    pairs = list[tuple[np.ndarray, ...]]()
    for _ in range(3):
        labels, guessed = generator.choice(kept, size), generator.choice(kept, size)
        found = np.where(generator.random(size) < 0.6, labels, guessed)
        labels[generator.random(size) < 0.1] = IGNORE
        pairs.append((labels.astype(np.uint8), found.astype(np.uint8)))
    return pairs


def cityscapes(confusion: list[list[int]]) -> tuple[list[float], float]:
    """As evalPixelLevelSemanticLabeling of cityscapesScripts has it: class by class, a plain sum
    over those whose IoU has a denominator."""
    scores = list[float]()
    for label in range(len(confusion)):
        true_positives = confusion[label][label]
        false_negatives = sum(confusion[label]) - true_positives
        others = [row for row in range(len(confusion)) if row != label]
        false_positives = sum(confusion[row][label] for row in others)
        denominator = true_positives + false_positives + false_negatives
        scores.append(float(true_positives) / denominator if denominator else float("nan"))
    total, count = 0.0, 0
    for score in scores:
        if not np.isnan(score):
            total, count = total + score, count + 1
    return scores, total / count


def ade20k(pairs: list[tuple[np.ndarray, ...]], classes: int) -> tuple[float, float]:
    """As the scene parsing benchmark has it: areas by histograms of what is labelled; pixel
    accuracy and the mean IoU of the classes that occur."""
    intersection, union, correct, labelled = np.zeros(classes), np.zeros(classes), 0, 0
    for labels, found in pairs:
        known = labels != IGNORE
        true, guessed = labels[known].astype(int), found[known].astype(int)
        hit = np.histogram(guessed[guessed == true], bins=classes, range=(0, classes))[0]
        areas = [np.histogram(m, bins=classes, range=(0, classes))[0] for m in (true, guessed)]
        intersection, union = intersection + hit, union + areas[0] + areas[1] - hit
        correct, labelled = correct + int((true == guessed).sum()), labelled + true.size
    ratios = [i / u for i, u in zip(intersection.tolist(), union.tolist(), strict=True) if u]
    total = 0.0
    for ratio in ratios:
        total += ratio
    return correct / labelled, total / len(ratios)


@pytest.mark.parametrize("size", [(17, 31), (64, 128), (1, 5)])
@pytest.mark.parametrize(("classes", "left_out"), [(19, set()), (19, {3, 18}), (150, {0, 77})])
def test_scores_are_the_official_ones_to_the_last_digit(size, classes, left_out):
    pairs = drawn(classes, left_out, size)
    tensors = [tuple(map(torch.from_numpy, pair)) for pair in pairs]
    matrix = sum(confusion_matrix(*pair, classes) for pair in tensors)
    flat = [np.concatenate([pair[i].ravel() for pair in pairs]) for i in (0, 1)]
    known = flat[0] != IGNORE
    expected = reference_matrix(flat[0][known], flat[1][known], labels=range(classes))
    np.testing.assert_array_equal(matrix, expected)
    scores = Scores(matrix.numpy())
    iou, mean = cityscapes(matrix.tolist())
    np.testing.assert_array_equal(scores.iou, iou)
    assert scores.miou == mean
    accuracy, mean = ade20k(pairs, classes)
    assert (scores.pixel_accuracy, scores.miou) == (accuracy, mean)
    values = scores.as_dict(tuple(map(str, range(classes))))
    assert values["ade20k_score"] == (accuracy + mean) / 2
    assert {int(name) for name in values["absent"]} >= left_out


def test_of_many_counts_at_once():
    stacked = np.random.default_rng(0).integers(0, 50, (7, 5, 5))
    stacked[3, 2], stacked[3, :, 2] = 0, 0
    counts = np.stack([counts_of(matrix) for matrix in stacked])
    for name, figure in FIGURES.items():
        alone = [Scores(matrix).as_dict(NAMES)[name] for matrix in stacked]
        np.testing.assert_array_equal(figure(counts), alone)
