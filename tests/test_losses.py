"""Losses against torch's means, hand values and sorted numpy."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from segcore.errors import InputError
from segcore.losses import build_criterion, cross_entropy, list_losses, ohem, presence
from segcore.types import IGNORE, Prediction

B, K, H, W = 3, 4, 9, 13


@pytest.fixture
def logits():
    torch.manual_seed(0)
    return torch.randn(B, K, 5, 7, dtype=torch.float32, requires_grad=True)


@pytest.fixture
def labels():
    torch.manual_seed(1)
    labels = torch.randint(0, K, (B, H, W))
    labels[torch.rand(B, H, W) < 0.3] = IGNORE
    return labels.to(torch.uint8)


def enlarged(logits):
    return F.interpolate(logits, (H, W), mode="bilinear", align_corners=False)


def count(labels):
    return (labels != IGNORE).sum()


def test_cross_entropy_divided_is_torch_s_mean(logits, labels):
    expected = F.cross_entropy(enlarged(logits), labels.long(), ignore_index=IGNORE)
    torch.testing.assert_close(cross_entropy(logits, labels) / count(labels), expected)


def test_cross_entropy_by_hand():
    logits = torch.tensor([[[[0.0, 2.0]], [[0.0, 0.0]]]])  # two classes, two pixels
    labels = torch.tensor([[[1, 0]]])
    expected = math.log(2) + math.log(1 + math.exp(-2))
    assert cross_entropy(logits, labels).item() == pytest.approx(expected, rel=1e-6)
    weighted = cross_entropy(logits, labels, class_weights=torch.tensor([3.0, 0.5]))
    expected = 0.5 * math.log(2) + 3 * math.log(1 + math.exp(-2))
    assert weighted.item() == pytest.approx(expected, rel=1e-6)


def test_a_sum_does_not_care_how_the_batch_is_divided(logits, labels):
    criterion = build_criterion("cross_entropy")
    scores = torch.randn(B, K)
    whole = criterion(Prediction(logits, (logits,), scores), labels)
    parts = [
        criterion(Prediction(logits[i], (logits[i],), scores[i]), labels[i])
        for i in (slice(0, 1), slice(1, 3))
    ]
    torch.testing.assert_close(sum(parts), whole)


def test_auxiliary_and_presence_weights(logits, labels):
    other, scores = torch.randn(B, K, 3, 3), torch.randn(B, K)
    main, side = cross_entropy(logits, labels), cross_entropy(other, labels)
    there = presence(scores, labels)
    prediction = Prediction(logits, (other, logits), scores)
    got = build_criterion("cross_entropy")(prediction, labels)
    torch.testing.assert_close(got, main + 0.4 * (side + main) + 0.2 * there)
    criterion = build_criterion("cross_entropy", auxiliary_weight=1.0, presence_weight=0.0)
    torch.testing.assert_close(criterion(prediction, labels), 2 * main + side)


def test_class_weights_reach_main_and_auxiliary(logits, labels):
    weights = [0.5, 1.0, 2.0, 4.0]
    criterion = build_criterion("cross_entropy", class_weights=weights, auxiliary_weight=0.5)
    expected = F.cross_entropy(
        enlarged(logits),
        labels.long(),
        weight=torch.tensor(weights),
        ignore_index=IGNORE,
        reduction="sum",
    )
    torch.testing.assert_close(criterion(Prediction(logits, (logits,)), labels), 1.5 * expected)


def slow_ohem(logits, labels, threshold, min_kept):
    """The mean over the pixels kept, by sorting, as openseg writes it."""
    scores = enlarged(logits).detach().double().numpy().transpose(0, 2, 3, 1).reshape(-1, K)
    flat = labels.numpy().astype(int).ravel()
    scores, flat = scores[flat != IGNORE], flat[flat != IGNORE]
    probabilities = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
    own = probabilities[np.arange(len(flat)), flat]
    limit = max(threshold, np.sort(own)[min(min_kept, len(own) - 1)])
    kept = own[own < limit]
    return -np.log(kept).mean(), len(kept)


@pytest.mark.parametrize(
    ("threshold", "min_kept"), [(0.2, 0), (0.7, 10), (0.05, 40), (0.05, 10_000), (1.1, 1)]
)
def test_ohem_equals_the_sorted_form(logits, labels, threshold, min_kept):
    expected, kept = slow_ohem(logits, labels, threshold, min_kept * B)
    assert 0 < kept <= count(labels)
    got = ohem(logits, labels, threshold=threshold, min_kept=min_kept) / count(labels)
    assert got.item() == pytest.approx(expected, rel=1e-5)


def test_ohem_teaches_kept_pixels_only():
    logits = torch.tensor([[[[5.0, -5.0, 0.1]], [[0.0, 0.0, 0.0]]]], requires_grad=True)
    labels = torch.tensor([[[0, 0, 0]]])
    ohem(logits, labels, threshold=0.6, min_kept=1).backward()
    reached = logits.grad.abs().sum(dim=(0, 1, 2)) > 0
    assert reached.tolist() == [False, True, True]


def test_ohem_with_class_weights_still_ranks_by_probability(logits, labels):
    weights = torch.tensor([0.1, 10.0, 1.0, 5.0])
    kept = ohem(logits, labels, threshold=0.2, min_kept=0, class_weights=weights)
    scores = enlarged(logits).softmax(dim=1)
    index = labels.long().clamp(max=K - 1)
    own = scores.gather(1, index[:, None])[:, 0]
    chosen = (own < 0.2) & (labels != IGNORE)
    expected = (-own.log() * weights[index])[chosen].mean() * count(labels)
    torch.testing.assert_close(kept, expected, rtol=1e-5, atol=0)


def test_presence_by_hand():
    scores = torch.tensor([[2.0, -1.0, 3.0]])
    labels = torch.tensor([[[0, 0, 1, IGNORE]]], dtype=torch.uint8)
    terms = [math.log(1 + math.exp(-2)), math.log(1 + math.exp(1)), math.log(1 + math.exp(3))]
    # Classes 0 and 1 occur, the ignored label is none; three pixels are labelled.
    assert presence(scores, labels).item() == pytest.approx(sum(terms) / 3 * 3, rel=1e-6)


@pytest.mark.parametrize("name", list_losses())
def test_nothing_labelled_gives_zero_and_finite_gradients(name):
    logits = torch.randn(2, K, 4, 4, requires_grad=True)
    scores = torch.randn(2, K, requires_grad=True)
    labels = torch.full((2, 8, 8), IGNORE, dtype=torch.uint8)
    loss = build_criterion(name)(Prediction(logits, (logits * 2,), scores), labels)
    assert loss.item() == 0
    loss.backward()
    assert logits.grad.abs().max() == 0
    assert scores.grad.abs().max() == 0


@pytest.mark.parametrize("name", list_losses())
def test_half_precision_logits_are_summed_in_float32(name, logits, labels):
    criterion = build_criterion(name)
    rough = logits.detach().bfloat16()
    got = criterion(Prediction(rough), labels)
    assert got.dtype == torch.float32
    torch.testing.assert_close(got, criterion(Prediction(rough.float()), labels))


def test_wrong_names_are_told():
    with pytest.raises(InputError, match="no loss 'cross_entrpy'; did you mean 'cross_entropy'"):
        build_criterion("cross_entrpy")
    with pytest.raises(InputError, match="ohem has no option 'treshold'; did you mean 'threshold'"):
        build_criterion("ohem", treshold=0.7)
    with pytest.raises(InputError, match="cross_entropy has no option 'threshold'"):
        build_criterion("cross_entropy", threshold=0.7)
