"""Labels of whole images, against the slow way."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from segcore import inference
from segcore.errors import InputError, validated
from segcore.inference import (
    predict_labels,
    predict_labels_over_views,
    predictor,
    resized_rows,
    resized_sides,
)
from segcore.tables import TestTime
from segcore.transforms import MEAN, STD
from segcore.types import Prediction


class Coarse(nn.Module):
    """Scores at a quarter of the size: a random mixture of the channels, averaged."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(5)
        self.mix = nn.Conv2d(3, 6, 1)

    def forward(self, images):
        return Prediction(F.avg_pool2d(self.mix(images), 4, ceil_mode=True))


def slowly(network: Coarse, image: torch.Tensor) -> torch.Tensor:
    """Pixel by pixel in float64: the four nearest scores, weighted by distance."""
    mean, std = (torch.tensor(each).view(3, 1, 1) for each in (MEAN, STD))
    with torch.no_grad():
        scores = network(((image.float() - mean) / std)[None]).logits[0].double()
    height, width = image.shape[1:]
    labels = torch.empty(height, width, dtype=torch.uint8)
    for row in range(height):
        for column in range(width):
            total = torch.zeros(6, dtype=torch.float64)
            for y, weight_y in nearest(row, height, scores.shape[1]):
                for x, weight_x in nearest(column, width, scores.shape[2]):
                    total += weight_y * weight_x * scores[:, y, x]
            labels[row, column] = total.argmax()
    return labels


def nearest(place: int, length: int, cells: int) -> list[tuple[int, float]]:
    """The two cells around a pixel's centre and their weights; at the edge, the edge's cell."""
    at = max((place + 0.5) * cells / length - 0.5, 0)
    low = int(at)
    return [(low, 1 - (at - low)), (min(low + 1, cells - 1), at - low)]


@pytest.mark.parametrize("size", [(12, 20), (13, 9), (4, 7)])
def test_labels_are_those_of_the_enlarged_scores(size):
    network = Coarse()
    images = torch.randint(0, 256, (2, 3, *size), dtype=torch.uint8)
    found = predict_labels(network, images)
    assert (found.dtype, found.shape) == (torch.uint8, (2, *size))
    for image, labels in zip(images, found, strict=True):
        # Rounding may decide where two scores are equal; no more than that.
        assert (slowly(network, image) != labels).float().mean() <= 0.01
    assert len(found.unique()) >= 2


SCALES = (0.5, 1.0, 1.75)
MIRROR = [0, 2, 1, 3, 5, 4]


def over_views_slowly(network: Coarse, image: torch.Tensor, *, flip: bool) -> torch.Tensor:
    """View by view in float64, the mirrored ones by hand: columns from the right, sides swapped."""
    mean, std = (torch.tensor(each).view(3, 1, 1) for each in (MEAN, STD))
    pixels = ((image.float() - mean) / std)[None]
    size, total = image.shape[1:], torch.zeros(6, *image.shape[1:], dtype=torch.float64)
    for scale in SCALES:
        resized = F.interpolate(pixels, [round(each * scale) for each in size], mode="bilinear")
        with torch.no_grad():
            scores = F.interpolate(network(resized).logits.double(), size, mode="bilinear")
            total += scores[0].exp() / scores[0].exp().sum(0)
            if flip:
                columns = list(reversed(range(resized.shape[-1])))
                scores = network(resized[..., columns]).logits.double()
                scores = F.interpolate(scores, size, mode="bilinear")[0].softmax(0)
                for column in range(size[1]):
                    for index, other in enumerate(MIRROR):
                        total[index, :, column] += scores[other, :, size[1] - 1 - column]
    return total.argmax(0)


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("size", [(12, 20), (13, 9)])
def test_labels_over_views_are_those_of_the_mean_probability(size, flip):
    network = Coarse()
    images = torch.randint(0, 256, (2, 3, *size), dtype=torch.uint8)
    found = predict_labels_over_views(network, images, scales=SCALES, flip=flip, mirror=MIRROR)
    assert (found.dtype, found.shape) == (torch.uint8, (2, *size))
    for image, labels in zip(images, found, strict=True):
        assert (over_views_slowly(network, image, flip=flip) != labels).float().mean() <= 0.01
    assert not torch.equal(found, predict_labels(network, images))


def test_test_time_decides_over_the_views():
    network = Coarse()
    images = torch.randint(0, 256, (1, 3, 24, 20), dtype=torch.uint8)
    assert predictor(TestTime(), MIRROR) is predict_labels
    many = predictor(TestTime(scales=SCALES, flip=True), MIRROR)(network, images)
    expected = predict_labels_over_views(network, images, scales=SCALES, flip=True, mirror=MIRROR)
    assert torch.equal(many, expected)
    alone = predictor(TestTime(scales=(1.0,), flip=True), list(range(6)))
    mirrored = alone(network, images.flip(-1)).flip(-1)
    assert torch.equal(alone(network, images), mirrored)  # a mirror image gets mirrored labels


# --- many classes, many pixels -------------------------------------------------------------------


@pytest.mark.parametrize("part", [1, 700, 5000, 1 << 24])
@pytest.mark.parametrize("size", [(33, 47), (8, 12)])
def test_classes_in_parts_give_what_all_at_once_give(monkeypatch, part, size):
    monkeypatch.setattr(inference, "PART", part)
    torch.manual_seed(2)
    scores = torch.randn(2, 23, 8, 12)
    scores[:, 7] = scores[:, 3]  # of equal ones the first counts
    scores[:, 3, :4] += 3
    scores[:, 7, :4] += 3
    plain = F.interpolate(scores, size, mode="bilinear").argmax(1)
    found = inference._most_likely(scores, torch.Size(size))
    assert torch.equal(found, plain.to(torch.uint8))
    assert 3 in found
    assert 7 not in found


@pytest.mark.parametrize("size", [(33, 47), (16, 24), (5, 9), (8, 12), (1, 1)])
def test_rows_of_an_enlarged_map(size):
    torch.manual_seed(3)
    scores = torch.randn(2, 5, 8, 12)
    whole = F.interpolate(scores, size, mode="bilinear")
    for first in range(size[0]):
        for end in range(first + 1, size[0] + 1, 5):
            rows = resized_rows(scores, torch.Size(size), (first, end))
            torch.testing.assert_close(rows, whole[:, :, first:end], rtol=0, atol=2e-6)


def test_views_in_bands_give_what_all_rows_at_once_give(monkeypatch):
    network = Coarse()
    images = torch.randint(0, 256, (2, 3, 24, 20), dtype=torch.uint8)
    how = {"scales": SCALES, "flip": True, "mirror": MIRROR}
    expected = predict_labels_over_views(network, images, **how)
    monkeypatch.setattr(inference, "PART", 6 * 2 * 20 * 5)  # five rows
    assert torch.equal(predict_labels_over_views(network, images, **how), expected)


# --- protocols -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("size", "expected"), [(16, (16, 27)), ((9, 11), (9, 11)), (None, (24, 40))]
)
def test_an_image_is_resized_before_and_labelled_at_its_own_size(size, expected):
    network = Coarse()
    images = torch.randint(0, 256, (1, 3, 24, 40), dtype=torch.uint8)
    assert resized_sides((24, 40), size) == expected
    mean, std = (torch.tensor(each).view(3, 1, 1) for each in (MEAN, STD))
    with torch.no_grad():
        small = F.interpolate((images.float() - mean) / std, expected, mode="bilinear")
        scores = F.interpolate(network(small).logits, (24, 40), mode="bilinear")
    found = predictor(TestTime(resize=size), MIRROR)(network, images)
    assert torch.equal(found, scores.argmax(1).to(torch.uint8))


@pytest.mark.parametrize(
    ("values", "problem"),
    [
        ({"window": [8, 8]}, "window and stride say something only together"),
        ({"stride": [8, 8]}, "window and stride say something only together"),
        ({"window": [8, 8], "stride": [4, 9]}, r"stride \[4, 9\] leaves gaps"),
        ({"crop": [8, 8]}, "crop needs resize"),
        ({"crop": [8, 10], "resize": 9}, r"crop \[8, 10\] does not fit into resize 9"),
        ({"crop": [8, 10], "resize": [7, 20]}, r"crop \[8, 10\] does not fit into resize"),
    ],
)
def test_a_protocol_that_makes_no_sense_is_refused(values, problem):
    with pytest.raises(InputError, match=problem):
        validated(TestTime, values, "test_time")
