"""Intervals against a plain bootstrap, and against what statistics says they must be."""

import json

import numpy as np
import pytest
import torch

from segcore.errors import InputError
from segcore.evaluation import ImageResult, Tally
from segcore.intervals import (
    AT_A_TIME,
    DRAWS,
    _weights,
    difference,
    image_counts,
    interval,
    mean_interval,
)
from segcore.metrics import FIGURES, Scores, confusion_matrix, mean_iou, pixel_accuracy


def matrices(images: int, right: float, seed: int) -> np.ndarray:
    """A confusion matrix of each image, of images that differ in size and in how hard they are."""
    generator = np.random.default_rng(seed)
    found = np.zeros((images, 4, 4), np.int64)
    for each in found:
        hard = generator.uniform(-0.15, 0.15)
        for row in range(4):
            shares = np.full(4, (1 - right - hard) / 3)
            shares[row] = right + hard
            each[row] = generator.multinomial(generator.integers(50, 500), shares)
    return found


def counts(confusions: np.ndarray) -> np.ndarray:
    diagonal = confusions[:, range(4), range(4)]
    return np.stack([confusions.sum(2), confusions.sum(1), diagonal], axis=1)


def drawn_again(images: int, seed: int) -> list[np.ndarray]:
    """Which images each draw takes, one draw after the other."""
    return [
        np.repeat(np.arange(images), row.astype(int)) for w in _weights(images, seed) for row in w
    ]


@pytest.mark.long
@pytest.mark.parametrize("figure", FIGURES)
def test_an_interval_is_that_of_a_plain_bootstrap(figure):
    confusions = matrices(30, 0.7, 0)
    found = interval([counts(confusions)], FIGURES[figure], seed=4)
    draws = [
        Scores(confusions[chosen].sum(0)).as_dict(("a", "b", "c", "d"))[figure]
        for chosen in drawn_again(30, 4)
    ]
    assert len(draws) == DRAWS
    assert found.value == Scores(confusions.sum(0)).as_dict(("a", "b", "c", "d"))[figure]
    np.testing.assert_allclose(found[1:], np.percentile(draws, [2.5, 97.5]), rtol=1e-12)
    assert found.low < found.value < found.high


def test_draws_are_with_replacement_and_seeded():
    weights = list(_weights(40, 7))
    assert [each.shape for each in weights] == [(AT_A_TIME, 40)] * (DRAWS // AT_A_TIME)
    together = np.concatenate(weights)
    assert (together.sum(1) == 40).all()
    assert (together == 0).mean() == pytest.approx((1 - 1 / 40) ** 40, abs=0.01)
    np.testing.assert_array_equal(np.concatenate(list(_weights(40, 7))), together)
    assert (np.concatenate(list(_weights(40, 8))) != together).any()


def test_an_interval_covers_the_truth_as_often_as_it_says():
    """Of 200 data sets drawn anew about 95 % of the intervals hold what all of them together say:
    the standard deviation of that share is 1.5 %."""
    truth = pixel_accuracy(counts(matrices(20000, 0.7, 99)).sum(0))
    found = [interval([counts(matrices(50, 0.7, seed))], pixel_accuracy) for seed in range(200)]
    assert 0.90 <= np.mean([each.low <= truth <= each.high for each in found]) <= 0.99


def test_intervals_narrow_with_more_images():
    few, many = (interval([counts(matrices(n, 0.7, 5))], mean_iou) for n in (25, 400))
    assert (few.high - few.low) / (many.high - many.low) == pytest.approx(4, rel=0.4)


def test_a_paired_difference_sees_more_than_two_intervals():
    confusions = matrices(60, 0.7, 2)
    better = confusions.copy()
    for each in better:  # one wrong pixel in twenty of every class is put right
        for row in range(4):
            wrong = (row + 1) % 4
            moved = each[row, wrong] // 6
            each[row, row] += moved
            each[row, wrong] -= moved
    ours, theirs = counts(better), counts(confusions)
    found = difference([ours], [theirs], mean_iou)
    assert found.value == mean_iou(ours.sum(0)) - mean_iou(theirs.sum(0))
    assert 0 < found.low < found.value < found.high
    alone = interval([ours], mean_iou), interval([theirs], mean_iou)
    assert alone[0].low < alone[1].high  # apart, they overlap
    assert found.high - found.low < (alone[0].high - alone[0].low) / 3
    back = difference([theirs], [ours], mean_iou)
    assert (back.value, back.low, back.high) == (-found.value, -found.high, -found.low)
    assert difference([ours], [ours], mean_iou) == (0, 0, 0)


def test_seeds_widen_an_interval():
    runs = [counts(matrices(300, right, 3)) for right in (0.6, 0.7, 0.8)]
    found = interval(runs, pixel_accuracy)
    assert found.value == pytest.approx(np.mean([pixel_accuracy(run.sum(0)) for run in runs]))
    # Means of three drawn from three: 0.6 to 0.8, deviation 0.0816 / sqrt(3) = 0.047.
    assert found.high - found.low == pytest.approx(2 * 1.96 * 0.047, rel=0.25)
    one = interval(runs[1:2], pixel_accuracy)
    assert one.high - one.low < 0.05
    assert interval([runs[1]] * 3, pixel_accuracy)[1:] == pytest.approx(one[1:])


def test_rows_of_different_splits_cannot_be_paired():
    few, many = counts(matrices(20, 0.7, 0)), counts(matrices(30, 0.7, 0))
    with pytest.raises(InputError, match=r"20 images .* 30 .* evaluate both rows"):
        difference([few], [many], mean_iou)


def test_the_mean_over_images_then_classes():
    values = np.array([[0.5, np.nan, np.nan], [1.0, 0.2, np.nan], [0.0, 0.4, np.nan]])
    found = mean_interval(values)
    assert found.value == pytest.approx((0.5 + 0.3) / 2)
    draws = []
    for chosen in drawn_again(3, 0):
        means = [values[chosen, k][~np.isnan(values[chosen, k])] for k in range(3)]
        draws.append(np.mean([mean.mean() for mean in means if mean.size]))
    np.testing.assert_allclose(found[1:], np.percentile(draws, [2.5, 97.5]), rtol=1e-12)


def test_counts_come_back_from_the_file():
    generator = torch.Generator().manual_seed(0)
    tally = Tally(6)
    for number in range(4):
        labels, found = torch.randint(0, 5, (2, 9, 11), generator=generator, dtype=torch.uint8)
        labels[:3] = 255
        tally.add(ImageResult(str(number), found, labels, confusion_matrix(labels, found, 6)))
    written = json.loads(json.dumps(tally.as_dict(tuple("abcdef")), allow_nan=False))
    read = image_counts(written["per_image"], 6)
    np.testing.assert_array_equal(read, np.stack([image.counts for image in tally.images]))
    assert mean_iou(read.sum(0)) == written["miou"]
    assert list(interval([read], mean_iou)[1:]) == written["intervals"]["miou"]
