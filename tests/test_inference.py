"""Labels of whole images, against the slow way."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from segcore.inference import predict_labels
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
