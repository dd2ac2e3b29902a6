"""The non-local block against its sums over all pairs of pixels, in float64, both ways."""

import math

import pytest
import torch

from segcore.backbones import build_backbone
from segcore.errors import InputError
from segcore.models import build_model
from segcore.models.non_local import NonLocalBlock, mix_by_dot_product

FORMS = [("embedded_gaussian", True), ("embedded_gaussian", False), ("dot_product", True)]


def block(mode, use_scale):
    """In float64, with a projection that is not zero."""
    torch.manual_seed(0)
    built = NonLocalBlock(6, 4, mode=mode, use_scale=use_scale).double().eval()
    for parameter in built.parameters():
        torch.nn.init.normal_(parameter)
    return built


def slow(built, x, mode, use_scale):
    """z_i = x_i + W (sum over j of f(x_i, x_j) g(x_j)) / C, pixel by pixel."""
    images = []
    for image in x:
        pixels = image.flatten(1).T
        query, key, value = (
            [each.weight[:, :, 0, 0] @ pixel + each.bias for pixel in pixels]
            for each in (built.query, built.key, built.value)
        )
        rows = []
        for q in query:
            products = [(q * k).sum() for k in key]
            if mode == "dot_product":
                weights = [product / len(key) for product in products]
            else:
                temperature = math.sqrt(len(q)) if use_scale else 1.0
                likeness = [(product / temperature).exp() for product in products]
                weights = [each / sum(likeness) for each in likeness]
            rows.append(sum(w * v for w, v in zip(weights, value, strict=True)))
        images.append(torch.stack(rows).T.unflatten(1, image.shape[1:]))
    return x + built.project(torch.stack(images))


@pytest.mark.parametrize(("mode", "use_scale"), FORMS)
def test_equals_the_sum_over_pairs(mode, use_scale):
    built = block(mode, use_scale)
    x = torch.randn(2, 6, 3, 5, dtype=torch.float64, requires_grad=True)
    ours, theirs = built(x), slow(built, x, mode, use_scale)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-10)
    upstream = torch.randn_like(ours)
    wanted = (x, *built.parameters())
    gradients = torch.autograd.grad(ours, wanted, upstream)
    expected = torch.autograd.grad(theirs, wanted, upstream)
    for gradient, each in zip(gradients, expected, strict=True):
        torch.testing.assert_close(gradient, each, rtol=0, atol=1e-10)


@pytest.mark.parametrize(("mode", "use_scale"), FORMS)
def test_the_block_is_the_identity_at_first(mode, use_scale):
    x = torch.randn(2, 6, 3, 5)
    built = NonLocalBlock(6, 4, mode=mode, use_scale=use_scale)
    assert torch.equal(built.eval()(x), x)
    assert torch.equal(built.train()(x), x)


def test_count_of_the_published_block():
    built = NonLocalBlock(512, 256, mode="embedded_gaussian", use_scale=True)
    assert sum(each.numel() for each in built.parameters()) == 526_080


def test_options_reach_the_block():
    backbone = build_backbone("resnet18", output_stride=8)
    model = build_model(
        "non_local", backbone, 3, width=16, key_width=9, use_scale=False, mode="dot_product"
    )
    assert model.head.context.scale == 1.0
    assert model.head.context.mode == "dot_product"
    assert model.head.context.query.weight.shape == (9, 16, 1, 1)
    assert build_model("non_local", backbone, 3, width=16, key_width=16).head.context.scale == 0.25
    with pytest.raises(InputError, match="non_local has no mode 'gausian'"):
        build_model("non_local", backbone, 3, mode="gausian")


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_the_sum_over_pixels_of_the_dot_product_does_not_overflow(dtype):
    torch.manual_seed(0)
    query, key, value = (4 + torch.rand(1, 3, 8192).to(dtype) for _ in range(3))
    assert (value.double() @ key.double().mT).min() > torch.finfo(torch.float16).max
    expected = mix_by_dot_product(query.double(), key.double(), value.double())
    found = mix_by_dot_product(query, key, value)
    assert found.dtype == dtype
    torch.testing.assert_close(found.double(), expected, rtol=2e-2, atol=0)
    with torch.autocast("cpu", dtype):
        found = mix_by_dot_product(query.float(), key.float(), value.float())
    torch.testing.assert_close(found.double(), expected, rtol=2e-2, atol=0)
