"""Sums over pixels keep float32's range and precision, whatever the type of their terms."""

import pytest
import torch

from segcore.layers import sum_over_pixels


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_sums_beyond_float16_are_exact(dtype):
    left = torch.tensor([[64.0] * 8192, [1.0] * 8192], dtype=dtype)[None]
    right = torch.tensor([[32.0] * 8192, [-1.0] * 8192], dtype=dtype)[None]
    expected = torch.tensor([[[64 * 32 * 8192, -64 * 8192], [32 * 8192, -8192]]]).float()
    assert torch.equal(sum_over_pixels(left, right), expected)
    with torch.autocast("cpu", dtype):
        assert torch.equal(sum_over_pixels(left.float(), right.float()), expected)


def test_float64_stays():
    left, right = torch.randn(2, 2, 3, 5, dtype=torch.float64)
    expected = torch.einsum("bcn,bdn->bcd", left, right)
    torch.testing.assert_close(sum_over_pixels(left, right), expected, rtol=0, atol=1e-14)
