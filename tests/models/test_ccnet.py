"""Criss-cross attention against dense attention with a mask, in float64, forward and backward."""

import pytest
import torch

from segcore.backbones import build_backbone
from segcore.errors import InputError
from segcore.models import build_model
from segcore.models.ccnet import CrissCrossAttention, gather_criss_cross

SIZES = [(3, 5), (5, 3), (1, 4), (4, 1), (1, 1), (13, 17)]


def on_the_cross(height, width):
    """[n, n]: is the pixel in the same row or column?"""
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    rows, columns = rows.flatten(), columns.flatten()
    return (rows[:, None] == rows) | (columns[:, None] == columns)


def dense(query, key, value):
    """Each pixel of the cross once; all others masked."""
    size = query.shape[-2:]
    query, key, value = (each.flatten(2) for each in (query, key, value))
    similarity = torch.einsum("bdn,bdm->bnm", query, key)
    similarity = similarity.masked_fill(~on_the_cross(*size), float("-inf"))
    mixed = torch.einsum("bnm,bem->ben", similarity.softmax(dim=-1), value)
    return mixed.unflatten(2, size)


def random(size):
    torch.manual_seed(0)
    shapes = ((2, 4, *size), (2, 4, *size), (2, 6, *size))
    return [torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in shapes]


@pytest.mark.parametrize("size", SIZES)
def test_equals_masked_dense_attention(size):
    inputs = random(size)
    ours, theirs = gather_criss_cross(*inputs), dense(*inputs)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)
    upstream = torch.randn_like(ours)
    gradients = torch.autograd.grad(ours, inputs, upstream)
    expected = torch.autograd.grad(theirs, inputs, upstream)
    for gradient, each in zip(gradients, expected, strict=True):
        torch.testing.assert_close(gradient, each, rtol=0, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("size", [(1, 1), (1, 5), (7, 6)])
def test_short_floats_stay_finite(size, dtype):
    exact = random(size)
    inputs = [each.detach().to(dtype).requires_grad_() for each in exact]
    mixed = gather_criss_cross(*inputs)
    mixed.sum().backward()
    assert mixed.dtype == dtype
    assert all(each.grad.isfinite().all() for each in inputs)
    torch.testing.assert_close(mixed.double(), dense(*exact), rtol=0, atol=0.05)


@pytest.mark.parametrize("size", [(3, 5), (6, 4)])
def test_weights_sum_to_one_and_the_pixel_itself_counts_once(size):
    query, key, _ = random(size)
    pixels = size[0] * size[1]
    # The value of pixel j is the j-th unit vector: what pixel i receives is its row of weights.
    marks = torch.eye(pixels, dtype=torch.float64).view(1, pixels, *size).expand(2, -1, -1, -1)
    weights = gather_criss_cross(query, key, marks).flatten(2).mT
    torch.testing.assert_close(weights.sum(dim=-1), torch.ones(2, pixels, dtype=torch.float64))
    assert torch.equal(weights > 0, on_the_cross(*size).expand(2, -1, -1))
    uniform = gather_criss_cross(torch.zeros_like(query), key, marks).flatten(2)
    torch.testing.assert_close(uniform.max().item(), 1 / (sum(size) - 1))
    assert uniform[:, range(pixels), range(pixels)].unique().numel() == 1


@pytest.mark.parametrize(("recurrence", "reaches_all"), [(1, False), (2, True)])
def test_two_passes_reach_every_pixel(recurrence, reaches_all):
    torch.manual_seed(0)
    height, width, row, column = 5, 7, 1, 4
    built = CrissCrossAttention(6, 4, recurrence).double()
    torch.nn.init.ones_(built.gain)
    x = torch.randn(1, 6, height, width, dtype=torch.float64, requires_grad=True)
    built(x)[0, :, row, column].sum().backward()
    reached = x.grad[0].abs().sum(dim=0) > 0
    cross = on_the_cross(height, width)[row * width + column].view(height, width)
    assert torch.equal(reached, torch.ones_like(cross) if reaches_all else cross)


def test_attention_is_the_identity_at_first_and_keeps_bfloat16():
    x = torch.randn(2, 6, 3, 5)
    assert torch.equal(CrissCrossAttention(6, 4, 2)(x), x)
    with torch.autocast("cpu", torch.bfloat16):
        assert CrissCrossAttention(6, 4, 2)(x.bfloat16()).dtype == torch.bfloat16


def test_passes_share_their_weights():
    for recurrence in (1, 2, 3):
        built = CrissCrossAttention(512, 64, recurrence)
        assert sum(each.numel() for each in built.parameters()) == 328_321


def test_recurrence_applies_the_same_attention_again():
    torch.manual_seed(0)
    once, thrice = CrissCrossAttention(6, 4, 1), CrissCrossAttention(6, 4, 3)
    torch.nn.init.constant_(once.gain, 0.5)
    thrice.load_state_dict(once.state_dict())
    x = torch.randn(2, 6, 3, 5)
    assert torch.equal(thrice(x), once(once(once(x))))


def test_no_recurrence_is_refused():
    backbone = build_backbone("resnet18", output_stride=8)
    with pytest.raises(InputError, match="recurrence must be a whole number of at least 1, not 0"):
        build_model("ccnet", backbone, 3, recurrence=0)
