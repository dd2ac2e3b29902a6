"""Losses against torch's means, hand values, definitions and sorted numpy."""

import itertools
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.utils.class_weight import compute_class_weight

from segcore.errors import InputError
from segcore.losses import (
    balanced_weights,
    build_criterion,
    cross_entropy,
    dice,
    list_losses,
    lovasz,
    ohem,
    ohem_by_loss,
    presence,
)
from segcore.losses.regions import lovasz_gradient
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


@pytest.mark.parametrize("name", ["cross_entropy", "dice", "lovasz"])
def test_a_sum_does_not_care_how_the_batch_is_divided(name, logits, labels):
    labels[1] = IGNORE
    criterion = build_criterion(name, dice_weight=0.5, lovasz_weight=0.5)
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
    criterion = build_criterion("cross_entropy", auxiliary_weight=[1.0, 0.25], presence_weight=0.0)
    torch.testing.assert_close(criterion(prediction, labels), 1.25 * main + side)
    criterion = build_criterion("cross_entropy", auxiliary_weight=[1.0])
    with pytest.raises(InputError, match=r"lists 1 weights, the method has 2 auxiliary outputs"):
        criterion(prediction, labels)


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
    criterion = build_criterion(name, dice_weight=1.0, lovasz_weight=1.0)
    loss = criterion(Prediction(logits, (logits * 2,), scores), labels)
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


# --- hard pixels in the other forms --------------------------------------------------------------


def slow_ohem_by_loss(logits, labels, threshold, share):
    """The mean over the losses above a limit, or over the greatest, as BiSeNet's port writes it."""
    losses = F.cross_entropy(
        enlarged(logits), labels.long(), ignore_index=IGNORE, reduction="none"
    ).flatten()
    least = int(count(labels) * share)
    hard = losses[losses > -math.log(threshold)]
    return hard.mean() if len(hard) >= least else losses.topk(least).values.mean()


@pytest.mark.parametrize(
    ("threshold", "share"), [(0.7, 1 / 16), (0.3, 0.25), (0.01, 1 / 16), (0.2, 1.0)]
)
def test_ohem_by_loss_equals_the_form_with_topk(logits, labels, threshold, share):
    got = ohem_by_loss(logits, labels, threshold=threshold, min_share=share) / count(labels)
    expected = slow_ohem_by_loss(logits, labels, threshold, share)
    torch.testing.assert_close(got, expected)
    gradient, other = (torch.autograd.grad(each, logits)[0] for each in (got, expected))
    torch.testing.assert_close(gradient, other)


def test_ohem_by_loss_with_nothing_hard_is_zero():
    logits = torch.tensor([[[[5.0, 5.0]], [[-5.0, -5.0]]]], requires_grad=True)
    loss = ohem_by_loss(logits, torch.zeros(1, 1, 2, dtype=torch.int64))
    assert loss.item() == 0  # a sixteenth of two pixels is none
    loss.backward()
    assert logits.grad.abs().max() == 0


def test_bootstrapping_takes_the_labels_to_the_grid_of_the_logits():
    """Every second cell of a 4x4 label map; the mean over the k cells that look least alike."""
    torch.manual_seed(0)
    logits = torch.randn(2, K, 2, 2)
    labels = torch.randint(0, K, (2, 4, 4))
    labels[0, 1, 1] = IGNORE  # seen by the grid
    labels[1, 0, 0] = IGNORE  # not seen by it
    seen = labels[:, 1::2, 1::2]
    own = logits.softmax(dim=1).gather(1, seen.clamp(max=K - 1)[:, None])[:, 0][seen != IGNORE]
    options = {"downsample_labels": True, "threshold": 1e-6}
    for min_kept in (1, 2):
        expected = -own.sort().values[: 2 * min_kept].log().mean()
        got = ohem(logits, labels, min_kept=min_kept, **options) / count(labels)
        torch.testing.assert_close(got, expected)
    everything = ohem(logits, labels, downsample_labels=True, threshold=1.1) / count(labels)
    torch.testing.assert_close(everything, -own.log().mean())


# --- regions -------------------------------------------------------------------------------------


def jaccard(wrong, truth):
    """One minus intersection over union of the truth and of what is left where some are wrong."""
    prediction = truth ^ wrong
    return 1 - (truth & prediction).sum() / (truth | prediction).sum()


def extension(errors, truth):
    """The Lovász extension by its definition: an integral over thresholds of the set function,
    which is constant between one error and the next."""
    levels = np.concatenate([[0.0], np.sort(errors)])
    steps = itertools.pairwise(levels)
    return sum((high - low) * jaccard(errors >= high, truth) for low, high in steps if high > low)


@pytest.mark.parametrize("seed", range(8))
def test_lovasz_is_the_extension_by_its_definition(seed):
    generator = np.random.default_rng(seed)
    pixels = 1 + 3 * seed
    errors = generator.random((3, pixels)).round(1 if seed % 2 else 8)  # half of them with ties
    truth = generator.random((3, pixels)) < 0.4
    truth[:, 0] = True
    weights = lovasz_gradient(torch.from_numpy(errors), torch.from_numpy(truth))
    expected = [extension(*row) for row in zip(errors, truth, strict=True)]
    got = (weights * torch.from_numpy(errors)).sum(dim=1)
    np.testing.assert_allclose(got.numpy(), expected, rtol=1e-12, atol=1e-12)


def test_lovasz_at_the_corners_is_the_jaccard_loss():
    """Of 3 pixels of a class one is missed, of 5 others two are taken: 2 of 5 are right."""
    truth = torch.tensor([[True, True, True, False, False, False, False, False]])
    wrong = torch.tensor([[1.0, 0, 0, 1, 1, 0, 0, 0]], dtype=torch.float64)
    assert (lovasz_gradient(wrong, truth) * wrong).sum().item() == pytest.approx(1 - 2 / 5)


def test_lovasz_is_exact_for_millions_of_pixels():
    pixels = 3_000_000
    torch.manual_seed(0)
    truth = torch.rand(1, pixels) < 0.3
    errors = torch.rand(1, pixels)
    single = lovasz_gradient(errors, truth)
    double = lovasz_gradient(errors.double(), truth)
    torch.testing.assert_close(single.double(), double, rtol=1e-6, atol=0)
    assert double.sum().item() == pytest.approx(1, rel=1e-9)  # all wrong: nothing is left


def region_by_hand(name, logits, labels):
    """Image by image and class by class, with numpy."""
    scores = enlarged(logits).detach().double().softmax(dim=1).numpy()
    total = 0.0
    for image, truth in zip(scores, labels.numpy(), strict=True):
        there = truth != IGNORE
        losses = []
        for value in np.unique(truth[there]):
            p, g = image[value][there], truth[there] == value
            if name == "dice":
                losses.append(1 - 2 * (p * g).sum() / ((p**2).sum() + g.sum()))
            else:
                losses.append(extension(np.abs(g - p), g))
        total += np.mean(losses) * there.sum()
    return total


@pytest.mark.parametrize("name", ["dice", "lovasz"])
def test_region_losses_are_means_over_classes_then_images(name, logits, labels):
    labels[0][labels[0] == 2] = 1  # a class that one image does not show
    got = build_criterion(name)(Prediction(logits), labels)
    assert got.item() == pytest.approx(region_by_hand(name, logits, labels), rel=1e-5)


def test_dice_by_hand():
    logits = torch.tensor([[[[0.0, 0.0, 0.0, 9.0]], [[0.0, 0.0, 0.0, -9.0]]]])
    labels = torch.tensor([[[0, 0, 1, IGNORE]]])
    # Every probability is a half: 2 · 1 / (3/4 + 2) and 2 · 1/2 / (3/4 + 1), and three pixels.
    expected = 3 * (1 - (2 / 2.75 + 1 / 1.75) / 2)
    assert dice(logits, labels).item() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("name", list_losses())
def test_gradients_are_those_of_differences(name):
    torch.manual_seed(3)
    logits = torch.randn(2, 3, 3, 4, dtype=torch.float64, requires_grad=True)
    labels = torch.randint(0, 3, (2, 6, 7))
    labels[:, 2] = IGNORE
    options = {"ohem": {"min_kept": 5, "threshold": 0.3}}.get(name, {})
    criterion = build_criterion(name, **options)
    assert torch.autograd.gradcheck(lambda x: criterion(Prediction(x), labels), logits)


@pytest.mark.parametrize("name", ["dice", "lovasz"])
def test_a_perfect_prediction_costs_nothing_and_the_opposite_all(name):
    labels = torch.randint(0, 2, (2, 5, 6), generator=torch.Generator().manual_seed(0))
    right = 200 * F.one_hot(labels, 2).permute(0, 3, 1, 2).float()
    criterion = build_criterion(name)
    assert criterion(Prediction(right), labels).item() == pytest.approx(0, abs=1e-4)
    assert criterion(Prediction(-right), labels).item() == pytest.approx(60, rel=1e-5)


def test_region_losses_are_added_by_their_weights(logits, labels):
    criterion = build_criterion("ohem", dice_weight=0.5, lovasz_weight=2.0, auxiliary_weight=0.0)
    got = criterion(Prediction(logits, (logits,)), labels)
    expected = ohem(logits, labels) + 0.5 * dice(logits, labels) + 2 * lovasz(logits, labels)
    torch.testing.assert_close(got, expected)


# --- class weights -------------------------------------------------------------------------------


def test_balanced_weights_make_all_classes_weigh_alike():
    pixels = [700, 0, 200, 100]
    weights = balanced_weights(pixels)
    assert weights == pytest.approx([1000 / 2100, 0, 1000 / 600, 1000 / 300])
    sums = [weight * number for weight, number in zip(weights, pixels, strict=True) if number]
    assert sums == pytest.approx([1000 / 3] * 3)
    labels = np.repeat([0, 2, 3], [700, 200, 100])
    theirs = compute_class_weight("balanced", classes=np.array([0, 2, 3]), y=labels)
    assert [weights[each] for each in (0, 2, 3)] == pytest.approx(theirs)


def test_class_weights_leave_region_losses_alone(logits, labels):
    weights = [0.5, 1.0, 2.0, 4.0]
    criterion = build_criterion("dice", class_weights=weights, auxiliary_weight=1.0)
    side = cross_entropy(logits, labels, class_weights=torch.tensor(weights))
    expected = dice(logits, labels) + side
    torch.testing.assert_close(criterion(Prediction(logits, (logits,)), labels), expected)
