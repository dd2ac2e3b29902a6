"""Pooling over grids against torch's own operator, in float64."""

import pytest
import torch
import torch.nn.functional as F

from segcore.layers import PyramidPooling, adaptive_average_pool, resize

SIZES = [(1, 1), (4, 3), (9, 13), (24, 24), (97, 64)]


@pytest.mark.parametrize("grid", [1, 2, 3, 6, 8])
@pytest.mark.parametrize("size", SIZES)
def test_pooling_equals_torch_forward_and_backward(grid, size):
    x = torch.randn(2, 3, *size, dtype=torch.float64, requires_grad=True)
    upstream = torch.randn(2, 3, grid, grid, dtype=torch.float64)
    ours, theirs = adaptive_average_pool(x, grid), F.adaptive_avg_pool2d(x, grid)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-13)
    (gradient,) = torch.autograd.grad(ours, x, upstream)
    (expected,) = torch.autograd.grad(theirs, x, upstream)
    torch.testing.assert_close(gradient, expected, rtol=0, atol=1e-13)


def test_intervals_overlap_where_the_grid_does_not_divide():
    x = torch.tensor([1.0, 2.0, 4.0, 8.0, 16.0]).expand(1, 1, 5, 5)
    # Five positions in two cells: [0, 3) and [2, 5); the middle one is in both.
    expected = torch.tensor([[7 / 3, 28 / 3], [7 / 3, 28 / 3]])
    torch.testing.assert_close(adaptive_average_pool(x, 2)[0, 0], expected)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("grid", [1, 2, 3, 6, 8])
def test_the_average_of_ones_is_one_in_low_precision(dtype, grid):
    ones = torch.ones(1, 1, 97, 193, dtype=dtype)
    assert torch.equal(adaptive_average_pool(ones, grid), torch.ones(1, 1, grid, grid, dtype=dtype))
    with torch.autocast("cpu", dtype):
        under_autocast = adaptive_average_pool(ones.float(), grid)
    assert torch.equal(under_autocast, torch.ones(1, 1, grid, grid, dtype=dtype))


def test_the_average_of_large_values_is_none_too_large_for_float16():
    large = torch.full((1, 1, 64, 128), 6e4, dtype=torch.float16)
    assert torch.equal(adaptive_average_pool(large, 1), large[:, :, :1, :1])


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_pooling_takes_either_memory_format(memory_format):
    x = torch.randn(2, 8, 9, 13).to(memory_format=memory_format)
    torch.testing.assert_close(adaptive_average_pool(x, 6), F.adaptive_avg_pool2d(x, 6))


def test_pyramid_pooling_equals_the_published_form():
    pyramid = PyramidPooling(6, 4, (1, 2, 3, 6)).double().train()
    x = torch.randn(2, 6, 13, 17, dtype=torch.float64)
    parts = [x]
    for grid, project in zip((1, 2, 3, 6), pyramid.project, strict=True):
        cells = project(F.adaptive_avg_pool2d(x, grid))
        size = (13, 17)
        parts.append(F.interpolate(cells, size, mode="bilinear", align_corners=False))
    assert pyramid.outputs == 6 + 4 * 4
    torch.testing.assert_close(pyramid(x), torch.cat(parts, dim=1), rtol=0, atol=1e-12)


def test_resize_treats_pixels_as_areas():
    x = torch.tensor([[[[0.0, 4.0]]]])
    # Centres of four new pixels lie at -1/4, 1/4, 3/4 and 5/4 of the old ones.
    assert resize(x, torch.Size((1, 4))).flatten().tolist() == [0.0, 1.0, 3.0, 4.0]
