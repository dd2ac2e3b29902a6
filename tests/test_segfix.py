"""SegFix's targets against a slow form of the paper's definition, its loss and how labels move."""

import itertools
import math

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.ndimage import distance_transform_edt

from segcore.backbones import build_backbone
from segcore.errors import InputError
from segcore.models import build_model
from segcore.segfix import (
    MOVES,
    OFFSETS,
    STAY,
    Gain,
    build_move_criterion,
    distances_and_bins,
    moves_of,
    refine,
)
from segcore.types import IGNORE, Prediction
from tests.narrow_networks import narrow_backbone

# --- targets -----------------------------------------------------------------------------------


def scene(seed: int, height: int = 33, width: int = 41, classes: int = 4) -> np.ndarray:
    """Blobs of classes, thin lines among them, and unlabelled places."""
    random = np.random.default_rng(seed)
    noise = random.standard_normal((classes + 1, height, width))
    smooth = [cv2.GaussianBlur(each, None, sigmaX=2.5) for each in noise]
    labels = np.argmax(smooth, axis=0).astype(np.uint8)
    labels[labels == classes] = IGNORE
    labels[:, width // 3] = 0
    labels[height // 2 : height // 2 + 3] = 1
    return labels


def slow_distances(labels: np.ndarray) -> np.ndarray:
    """By looking at every pair of pixels; 250 where there is but one class."""
    places = list(itertools.product(*map(range, labels.shape)))
    found = np.zeros(labels.shape)
    for y, x in places:
        if labels[y, x] != IGNORE:
            others = [(v, u) for v, u in places if labels[v, u] != labels[y, x]]
            found[y, x] = min((math.hypot(v - y, u - x) for v, u in others), default=250.0)
    return found


def slow_bin(labels: np.ndarray, distances: np.ndarray, y: int, x: int) -> int:
    """The paper's bins: atan2 of the gradient, 45 degrees each, the first one about 180."""
    height, width = labels.shape
    across = down = 0.0
    for j, i in itertools.product(range(-2, 3), repeat=2):
        if (j, i) != (0, 0):
            v, u = min(max(y + j, 0), height - 1), min(max(x + i, 0), width - 1)
            away = distances[v, u] if labels[v, u] == labels[y, x] else 0.0
            across += away * i / (i * i + j * j)
            down += away * j / (i * i + j * j)
    if math.hypot(across, down) < 1e-3:
        return -1
    angle = math.degrees(math.atan2(down, across))
    return int((angle + 180 + 22.5) % 360 // 45)


@pytest.mark.parametrize("seed", range(3))
def test_targets_are_those_of_a_slow_reference(seed):
    labels = scene(seed)
    distances, bins = distances_and_bins(labels)
    expected = slow_distances(labels)
    assert np.abs(distances - expected).max() < 1e-4
    for y, x in itertools.product(*map(range, labels.shape)):
        if labels[y, x] != IGNORE:
            assert bins[y, x] == slow_bin(labels, expected, y, x), (y, x)
    assert set(np.unique(bins[labels != IGNORE])) == set(range(-1, 8))


@pytest.mark.parametrize("seed", range(3, 6))
def test_distances_are_scipys_in_large_images(seed):
    labels = scene(seed, 211, 307, classes=9)
    expected = np.zeros(labels.shape)
    for value in range(9):
        expected += distance_transform_edt(labels == value)
    distances, _ = distances_and_bins(labels)
    assert np.abs(distances - expected.clip(max=250)).max() < 1e-3


def test_moves_lead_away_from_the_boundary():
    labels = np.zeros((40, 40), np.uint8)
    labels[10:30, 10:30] = 1
    moves = moves_of(torch.from_numpy(labels))
    names = np.array(MOVES.names)[moves.numpy()]
    assert names[20, 10] == names[20, 14] == "right"
    assert names[20, 15] == names[20, 20] == "stay"
    assert names[20, 29] == "left"
    assert names[10, 20] == "down"
    assert names[29, 20] == "up"
    assert names[10, 10] == "down right"
    assert names[29, 10] == "up right"
    assert names[9, 20] == "up"
    assert names[20, 5] == "left"
    assert names[20, 4] == names[0, 0] == "stay"


def test_thresholds():
    labels = torch.zeros(40, 40, dtype=torch.uint8)
    labels[10:19, 10:20] = 1
    narrow, wide = (moves_of(labels, boundary_width=width, smallest_region=1) for width in (1, 2.5))
    assert (narrow != STAY).sum() < (wide != STAY).sum()
    distances, _ = distances_and_bins(labels.numpy())
    assert torch.equal(narrow != STAY, torch.from_numpy(distances <= 1))
    assert (moves_of(labels, smallest_region=90) != IGNORE).all()
    skipped = moves_of(labels, smallest_region=91)
    assert torch.equal(skipped == IGNORE, labels == 1)
    assert torch.equal(skipped[labels == 0], moves_of(labels)[labels == 0])


def test_the_middle_of_a_thin_region_stays():
    labels = torch.zeros(30, 30, dtype=torch.uint8)
    labels[:, 14:17] = 1
    row = moves_of(labels, smallest_region=1)[15].tolist()
    assert [MOVES.names[move] for move in row[13:18]] == ["left", "right", "stay", "left", "right"]


def test_nothing_and_one_class_alone_have_no_boundary():
    assert (moves_of(torch.full((20, 30), 3, dtype=torch.uint8)) == STAY).all()
    assert (moves_of(torch.full((20, 30), IGNORE, dtype=torch.uint8)) == IGNORE).all()


def test_a_mirrored_image_has_mirrored_moves():
    labels = torch.from_numpy(scene(7))
    moves = moves_of(labels, smallest_region=1).long()
    table = torch.full((256,), IGNORE)
    table[: len(MOVES)] = torch.tensor(MOVES.mirror)
    mirrored = moves_of(labels.flip(1).contiguous(), smallest_region=1)
    assert torch.equal(mirrored.long(), table[moves].flip(1))


# --- refinement --------------------------------------------------------------------------------


def test_every_pixel_takes_the_label_that_it_is_led_to():
    random = torch.Generator().manual_seed(0)
    labels = torch.randint(0, 30, (2, 9, 11), generator=random).to(torch.uint8)
    moves = torch.randint(0, 9, (2, 9, 11), generator=random).to(torch.uint8)
    for step in (1, 2, 3):
        moved = refine(labels, moves, step=step)
        for b, y, x in itertools.product(range(2), range(9), range(11)):
            dy, dx = OFFSETS[int(moves[b, y, x])]
            v, u = min(max(y + step * dy, 0), 8), min(max(x + step * dx, 0), 10)
            assert moved[b, y, x] == labels[b, v, u]


def test_interior_pixels_are_unchanged_and_no_class_appears():
    truth = torch.from_numpy(scene(8, 60, 80))
    moves = moves_of(truth, smallest_region=1)
    moves[moves == IGNORE] = STAY
    labels = torch.randint(0, 3, truth.shape).to(torch.uint8) * 2
    moved = refine(labels[None], moves[None])[0]
    assert torch.equal(moved[moves == STAY], labels[moves == STAY])
    assert set(moved.unique().tolist()) <= {0, 2, 4}
    assert not torch.equal(moved, labels)


def test_true_moves_mend_labels_that_are_wrong_at_boundaries():
    truth = torch.zeros(64, 64, dtype=torch.uint8)
    truth[16:48, 20:44] = 1
    shifted = truth.roll((1, -2), (0, 1))
    mended = refine(shifted[None], moves_of(truth)[None])[0]
    assert (shifted != truth).sum() > 100
    wrong = (mended != truth).sum() / (shifted != truth).sum()
    assert wrong < 0.02


# --- network -----------------------------------------------------------------------------------


def test_parameters_of_the_published_network():
    with torch.device("meta"):
        network = build_model("segfix", build_backbone("hrnet_w48", pyramid="concat"), len(MOVES))
    assert sum(each.numel() for each in network.parameters()) == 65_697_344


def test_the_most_likely_class_is_the_published_decision():
    """Boundary by more than one half, then the best direction, both at the image's size."""
    torch.manual_seed(0)
    # In training mode, whose BatchNorm lets a network that was never trained decide both ways.
    network = build_model("segfix", narrow_backbone(8), len(MOVES), width=8).train()
    images = torch.rand(2, 3, 49, 67)
    with torch.no_grad():
        logits = network(images).logits
        feature = network.backbone(images)[-1]
        enlarged = [
            F.interpolate(head(feature), (49, 67), mode="bilinear")
            for head in (network.boundary, network.direction)
        ]
    is_boundary = enlarged[0][:, 1] > enlarged[0][:, 0]
    expected = torch.where(is_boundary, enlarged[1].argmax(dim=1) + 1, STAY)
    assert (logits.argmax(dim=1) != expected).sum() == 0
    assert 0 < is_boundary.float().mean() < 1


def test_a_network_without_a_direction_is_refused():
    with pytest.raises(InputError, match="segfix needs at least one direction"):
        build_model("segfix", narrow_backbone(8), 1)


# --- loss --------------------------------------------------------------------------------------


def slow_loss(logits: np.ndarray, labels: np.ndarray, direction_weight: float) -> float:
    """Pixel by pixel, from the two softmaxes; a mean, as published."""
    images, _, height, width = logits.shape
    terms: dict[str, list[tuple[int, float]]] = {"boundary": [], "direction": []}
    for b, y, x in itertools.product(range(images), range(height), range(width)):
        label, scores = int(labels[b, y, x]), logits[b, :, y, x]
        if label == IGNORE:
            continue
        probability = 1 / (1 + math.exp(scores[0]))
        moving = int(label > 0)
        terms["boundary"].append((moving, -math.log(probability if moving else 1 - probability)))
        if moving and probability > 0.5:
            shares = np.exp(scores[1:]) / np.exp(scores[1:]).sum()
            terms["direction"].append((label - 1, -math.log(shares[label - 1])))
    return mean_of(terms["boundary"]) + direction_weight * mean_of(terms["direction"])


def mean_of(losses: list[tuple[int, float]]) -> float:
    counts = np.bincount([each for each, _ in losses], minlength=8)
    weights = 1 - counts / counts.sum()
    total = sum(weights[each] for each, _ in losses)
    return sum(weights[each] * loss for each, loss in losses) / total


@pytest.mark.parametrize("direction_weight", [1.0, 0.3])
def test_loss_is_that_of_a_slow_reference(direction_weight):
    random = np.random.default_rng(0)
    logits = random.standard_normal((2, 9, 7, 8))
    labels = random.integers(0, 9, (2, 7, 8)).astype(np.uint8)
    labels[0, :2] = IGNORE
    criterion = build_move_criterion(direction_weight=direction_weight)
    found = criterion(Prediction(torch.from_numpy(logits)), torch.from_numpy(labels))
    expected = slow_loss(logits, labels, direction_weight) * (labels != IGNORE).sum()
    assert found.item() == pytest.approx(expected, rel=1e-9)


def test_loss_does_not_see_what_the_two_scores_have_in_common():
    """The network gives margins; the published losses take the scores themselves."""
    torch.manual_seed(0)
    boundary, direction = torch.randn(1, 2, 6, 6), torch.randn(1, 8, 6, 6)
    stay, best = boundary[:, :1] - boundary[:, 1:], direction.amax(dim=1, keepdim=True)
    margins, scores = (
        Prediction(torch.cat([stay, each], dim=1)) for each in (direction - best, direction)
    )
    labels = torch.randint(0, 9, (1, 6, 6))
    criterion = build_move_criterion()
    assert criterion(margins, labels).item() == pytest.approx(criterion(scores, labels).item())


@pytest.mark.parametrize("label", [IGNORE, STAY, 3])
def test_loss_of_one_class_alone_is_zero_with_finite_gradients(label):
    logits = torch.randn(1, 9, 4, 4, requires_grad=True)
    loss = build_move_criterion()(Prediction(logits), torch.full((1, 4, 4), label))
    loss.backward()
    assert loss.item() == 0
    assert logits.grad is not None
    assert (logits.grad == 0).all()


# --- gain --------------------------------------------------------------------------------------


@pytest.mark.long
def test_gain_holds_the_scores_of_both_in_bands_too():
    gain, sums = Gain(4), dict[tuple[str, str], np.ndarray]()
    for number in range(4):
        truth = torch.from_numpy(scene(20 + number))
        before, after = truth.roll(2, 1), truth.roll(1, 1)
        before, after = (
            torch.where(each == IGNORE, 0, each).to(torch.uint8) for each in (before, after)
        )
        gain.add(f"{number}", truth, before, after)
        distances = slow_distances(truth.numpy())
        for name, found in (("before", before), ("after", after)):
            for zone, most in (("miou", 250), ("miou_within_3", 3), ("miou_within_10", 10)):
                counted = (truth.numpy() != IGNORE) & (distances <= most + 1e-6)
                pairs = truth.numpy()[counted] * 4 + found.numpy()[counted]
                sums.setdefault((zone, name), np.zeros(16, np.int64))
                sums[zone, name] += np.bincount(pairs, minlength=16)
    found = gain.as_dict()
    assert found["images"] == 4
    for (zone, name), pairs in sums.items():
        matrix = pairs.reshape(4, 4)
        correct = matrix.diagonal()
        iou = correct / (matrix.sum(0) + matrix.sum(1) - correct)
        assert found["figures"][zone][name] == pytest.approx(iou.mean(), abs=1e-12)
    for figure in found["figures"].values():
        assert figure["gain"] == pytest.approx(figure["after"] - figure["before"], abs=1e-12)
        assert 0 < figure["interval"][0] < figure["gain"] < figure["interval"][1]


def test_gain_of_nothing_changed_is_nothing():
    gain = Gain(4)
    for number in range(3):
        truth = torch.from_numpy(scene(number))
        found = torch.where(truth == IGNORE, 1, truth).to(torch.uint8)
        gain.add(f"{number}", truth, found, found)
    assert gain.as_dict()["changed_share"] == 0
    assert gain.per_image() == {"0": 0.0, "1": 0.0, "2": 0.0}
    for figure in gain.as_dict()["figures"].values():
        assert figure["gain"] == figure["interval"][0] == figure["interval"][1] == 0
