"""Windows of a map on coordinates, and attention inside them against a loop, in float64."""

import pytest
import torch

from segcore.layers import attend_windows
from segcore.layers.windows import group_pixels, ungroup_pixels

ROWS, COLUMNS = 3, 2
HEIGHT, WIDTH = 6, 8


def coordinates():
    """Two images; the channels of a pixel are its image, its row and its column."""
    axes = [torch.arange(each) for each in (2, HEIGHT, WIDTH)]
    return torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=1).double()


def pixels_of(group):
    return [tuple(map(int, pixel)) for pixel in group.T]


def test_a_group_is_a_window():
    groups = group_pixels(coordinates(), ROWS, COLUMNS, interlaced=False)
    assert groups.shape == (2 * 6, 3, 2 * 4)
    # The second window of the second row of windows, of the second image.
    expected = [(1, row, column) for row in (2, 3) for column in (4, 5, 6, 7)]
    assert pixels_of(groups[6 + 3]) == expected


def test_an_interlaced_group_is_a_place_in_all_windows():
    groups = group_pixels(coordinates(), ROWS, COLUMNS, interlaced=True)
    assert groups.shape == (2 * 8, 3, 3 * 2)
    # Second row, third column of every window: two rows and four columns apart.
    expected = [(1, row, column) for row in (1, 3, 5) for column in (2, 6)]
    assert pixels_of(groups[8 + 6]) == expected


@pytest.mark.parametrize("interlaced", [False, True])
def test_ungrouping_undoes_grouping(interlaced):
    x = coordinates()
    groups = group_pixels(x, ROWS, COLUMNS, interlaced=interlaced)
    back = ungroup_pixels(groups, x.shape[-2:], ROWS, COLUMNS, interlaced=interlaced)
    assert torch.equal(back, x)


@pytest.mark.parametrize("interlaced", [False, True])
def test_attention_stays_inside_its_group(interlaced):
    torch.manual_seed(0)
    query, key, value = (torch.randn(2, d, HEIGHT, WIDTH).double() for d in (5, 5, 3))
    for each in (query, key, value):
        each.requires_grad_()
    tall, wide = HEIGHT // ROWS, WIDTH // COLUMNS

    def group(row, column):
        place = (row % tall, column % wide)
        return place if interlaced else (row // tall, column // wide)

    places = [(row, column) for row in range(HEIGHT) for column in range(WIDTH)]
    same = torch.tensor([[group(*one) == group(*other) for other in places] for one in places])
    similarity = query.flatten(2).mT @ key.flatten(2) / 5**0.5
    weights = similarity.masked_fill(~same, -torch.inf).softmax(dim=-1)
    slow = (value.flatten(2) @ weights.mT).unflatten(2, (HEIGHT, WIDTH))

    fast = attend_windows(query, key, value, ROWS, COLUMNS, interlaced=interlaced)
    torch.testing.assert_close(fast, slow, rtol=0, atol=1e-12)
    upstream = torch.randn_like(slow)
    inputs = (query, key, value)
    expected = torch.autograd.grad(slow, inputs, upstream)
    for ours, theirs in zip(torch.autograd.grad(fast, inputs, upstream), expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)
