"""Against scikit-learn, and values that one can check by hand."""

import json

import numpy as np
import pytest
import torch
from sklearn.metrics import accuracy_score, balanced_accuracy_score, jaccard_score, recall_score
from sklearn.metrics import confusion_matrix as reference_matrix

from segcore.errors import InputError
from segcore.metrics import Scores, confusion_matrix
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
    iou = jaccard_score(true, found, labels=present, average=None)
    recall = recall_score(true, found, labels=present, average=None)
    np.testing.assert_allclose(scores.iou[present], iou, rtol=1e-12)
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


def test_by_hand():
    labels = torch.tensor([[0, 0, 0, 1], [1, 1, IGNORE, IGNORE]])
    predicted = torch.tensor([[0, 0, 1, 1], [1, 2, 2, 0]])
    matrix = confusion_matrix(labels, predicted, 4)
    assert matrix.tolist() == [[2, 1, 0, 0], [0, 2, 1, 0], [0, 0, 0, 0], [0, 0, 0, 0]]
    assert matrix.dtype == torch.int64
    scores = Scores(matrix.numpy())
    # Class 0: 2 of 3; class 1: 2 of 4, one pixel too many and one too few. 2 and 3 have no label.
    assert scores.as_dict(("a", "b", "c", "d")) == {
        "miou": pytest.approx((2 / 3 + 2 / 4) / 2),
        "pixel_accuracy": pytest.approx(4 / 6),
        "mean_accuracy": pytest.approx(2 / 3),
        "iou": [pytest.approx(2 / 3), 0.5, None, None],
        "accuracy": [pytest.approx(2 / 3), pytest.approx(2 / 3), None, None],
        "absent": ["c", "d"],
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
    assert values["absent"] == list(NAMES)
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
