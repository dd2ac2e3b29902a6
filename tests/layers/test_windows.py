"""Windows of a map on coordinates, and attention inside them against a loop, in float64."""

import pytest
import torch

from segcore.layers import attend_grid, attend_windows
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


def slow_grid(query, key, value, grid):
    """Window by window; the last of a row or column ends with the map."""
    height, width = query.shape[-2:]
    tall, wide = height // grid, width // grid
    rows = []
    for i in range(grid):
        row = []
        for j in range(grid):
            bottom = height if i == grid - 1 else (i + 1) * tall
            right = width if j == grid - 1 else (j + 1) * wide
            window = (..., slice(i * tall, bottom), slice(j * wide, right))
            q, k, v = (each[window].flatten(2) for each in (query, key, value))
            weights = (q.mT @ k / q.shape[1] ** 0.5).softmax(dim=-1)
            row.append((v @ weights.mT).unflatten(2, query[window].shape[-2:]))
        rows.append(torch.cat(row, dim=3))
    return torch.cat(rows, dim=2)


# Whole, equal windows, a ragged last row and column, windows of one pixel but for the last.
@pytest.mark.parametrize(
    ("grid", "size"),
    [(1, (5, 7)), (2, (6, 8)), (3, (8, 10)), (6, (7, 11)), (6, (13, 17))],
)
def test_attention_inside_windows_equals_the_loop(grid, size):
    torch.manual_seed(0)
    inputs = [
        torch.randn(2, each, *size, dtype=torch.float64, requires_grad=True) for each in (4, 4, 3)
    ]
    ours, theirs = attend_grid(*inputs, grid), slow_grid(*inputs, grid)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)
    upstream = torch.randn_like(theirs)
    expected = torch.autograd.grad(theirs, inputs, upstream)
    for gradient, each in zip(torch.autograd.grad(ours, inputs, upstream), expected, strict=True):
        torch.testing.assert_close(gradient, each, rtol=0, atol=1e-12)


def test_a_map_smaller_than_the_grid_is_one_window():
    inputs = [torch.randn(2, 4, 5, 3, dtype=torch.float64) for _ in range(3)]
    torch.testing.assert_close(attend_grid(*inputs, 6), attend_grid(*inputs, 1))
