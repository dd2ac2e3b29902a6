"""Interlaced attention against two dense attentions with masks, in float64."""

import pytest
import torch

from segcore.backbones import build_backbone
from segcore.errors import InputError
from segcore.models import build_model
from segcore.models.isanet import InterlacedAttention

CELL = 3


@pytest.fixture
def block():
    torch.manual_seed(0)
    return InterlacedAttention(4, 5, (CELL, CELL), value_bias=True).double().eval()


def masked_attention(attention, x, same):
    """All pixels by all pixels; only those with ``same`` group see each other."""
    projections = (attention.query, attention.key, attention.value)
    query, key, value = (each(x).flatten(2) for each in projections)
    similarity = query.mT @ key / query.shape[1] ** 0.5
    weights = similarity.masked_fill(~same, -torch.inf).softmax(dim=-1)
    return attention.project((value @ weights.mT).unflatten(2, x.shape[-2:]))


def slow(block, x, top, left, height, width):
    """``x`` lies ``top`` and ``left`` in a map of zeros of ``height`` by ``width``."""
    h, w = x.shape[-2:]
    padded = x.new_zeros(*x.shape[:2], height, width)
    padded[:, :, top : top + h, left : left + w] = x
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    place = (rows % CELL * CELL + columns % CELL).flatten()
    cell = (rows // CELL * width + columns // CELL).flatten()
    y = masked_attention(block.long_range, padded, place[:, None] == place)
    y = masked_attention(block.short_range, y, cell[:, None] == cell)
    return y[:, :, top : top + h, left : left + w]


# Sizes, then where they come to lie in multiples of 3: half of what is lacking, rounded down.
@pytest.mark.parametrize(
    ("size", "place"),
    [((6, 9), (0, 0, 6, 9)), ((5, 7), (0, 1, 6, 9)), ((1, 4), (1, 1, 3, 6))],
)
def test_it_equals_two_masked_dense_attentions(block, size, place):
    x = torch.randn(2, 4, *size, dtype=torch.float64, requires_grad=True)
    ours, theirs = block(x), slow(block, x, *place)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)
    inputs = (x, *block.parameters())
    upstream = torch.randn_like(theirs)
    expected = torch.autograd.grad(theirs, inputs, upstream)
    for gradient, each in zip(torch.autograd.grad(ours, inputs, upstream), expected, strict=True):
        torch.testing.assert_close(gradient, each, rtol=0, atol=1e-12)


def seen_by(module, x, row, column):
    """Which pixels of ``x`` the output at one place depends on."""
    (gradient,) = torch.autograd.grad(module(x)[0, :, row, column].square().sum(), x)
    return gradient[0].abs().sum(dim=0) > 0


def test_long_range_sees_a_lattice_short_range_a_cell_and_both_see_all(block):
    x = torch.randn(1, 4, 9, 12, dtype=torch.float64, requires_grad=True)
    lattice = torch.zeros(9, 12, dtype=torch.bool)
    lattice[1::3, 2::3] = True
    cell = torch.zeros(9, 12, dtype=torch.bool)
    cell[3:6, 6:9] = True
    assert torch.equal(seen_by(block.long_range, x, 4, 8), lattice)
    assert torch.equal(seen_by(block.short_range, x, 4, 8), cell)
    assert seen_by(block, x, 4, 8).all()


def test_the_context_joins_the_feature():
    torch.manual_seed(0)
    backbone = build_backbone("resnet18", output_stride=8)
    model = build_model("isanet", backbone, 3, width=16, key_width=8, value_bias=False).eval()
    (attend,) = model.context.attentions
    assert attend.cell == (8, 8)
    assert attend.long_range.value.bias is None
    images = torch.rand(2, 3, 97, 65)
    with torch.no_grad():
        x = model.enter(backbone(images)[-1])
        expected = model.classify(model.context.join(torch.cat([attend(x), x], dim=1)))
        torch.testing.assert_close(model(images).logits, expected)


def test_cells_need_not_be_square():
    torch.manual_seed(0)
    block = InterlacedAttention(4, 5, (2, 4), value_bias=True).double().eval()
    x = torch.randn(1, 4, 6, 12, dtype=torch.float64, requires_grad=True)
    lattice, cell = torch.zeros(2, 6, 12, dtype=torch.bool)
    lattice[1::2, 2::4] = True
    cell[2:4, 4:8] = True
    assert torch.equal(seen_by(block.long_range, x, 3, 6), lattice)
    assert torch.equal(seen_by(block.short_range, x, 3, 6), cell)
    assert block(torch.rand(1, 4, 5, 13, dtype=torch.float64)).shape == (1, 4, 5, 13)


def test_several_cells_widen_what_they_join():
    torch.manual_seed(0)
    backbone = build_backbone("resnet18", output_stride=8)
    options = {"width": 16, "key_width": 8, "cells": [[8, 8], [2, 4]]}
    model = build_model("isanet", backbone, 3, **options).eval()
    images = torch.rand(2, 3, 97, 65)
    with torch.no_grad():
        x = model.enter(backbone(images)[-1])
        first, second = model.context.attentions
        parts = [first(x), second(x), model.context.widen(x)]
        assert [each.shape[1] for each in parts] == [16, 16, 32]
        expected = model.classify(model.context.join(torch.cat(parts, dim=1)))
        torch.testing.assert_close(model(images).logits, expected)


@pytest.mark.parametrize("cells", [8, [], [8, 8], [[8, 0]], [[8]]])
def test_a_cell_of_nothing_is_refused(cells):
    with pytest.raises(InputError, match="cells must be a list of heights and widths, as in"):
        build_model("isanet", build_backbone("resnet18", output_stride=8), 3, cells=cells)
