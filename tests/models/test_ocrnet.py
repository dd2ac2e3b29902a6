"""Object-contextual attention against its double loop, in float64, forward and backward."""

import math

import pytest
import torch

from segcore.backbones import build_backbone
from segcore.errors import InputError
from segcore.models import build_model
from segcore.models.ocrnet import gather_objects, mix_objects

B, C, K, H, W = 2, 3, 4, 5, 7


def slow_gather(pixels, coarse):
    rows = []
    for b in range(B):
        for k in range(K):
            scores = [coarse[b, k, y, x].exp() for y in range(H) for x in range(W)]
            flat = [pixels[b, :, y, x] for y in range(H) for x in range(W)]
            total = sum(scores)
            rows.append(
                sum(score / total * pixel for score, pixel in zip(scores, flat, strict=True))
            )
    return torch.stack(rows).view(B, K, C).transpose(1, 2).unsqueeze(-1)


def slow_mix(query, key, value):
    rows = []
    for b in range(B):
        for y in range(H):
            for x in range(W):
                like = [
                    ((query[b, :, y, x] * key[b, :, k, 0]).sum() / math.sqrt(C)).exp()
                    for k in range(K)
                ]
                mixed = sum(like[k] / sum(like) * value[b, :, k, 0] for k in range(K))
                rows.append(mixed)
    return torch.stack(rows).view(B, H, W, C).permute(0, 3, 1, 2)


def assert_same(fast, slow, inputs):
    ours, theirs = fast(*inputs), slow(*inputs)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)
    upstream = torch.randn(ours.shape, dtype=torch.float64)
    gradients = torch.autograd.grad(ours, inputs, upstream)
    expected = torch.autograd.grad(theirs, inputs, upstream)
    for gradient, each in zip(gradients, expected, strict=True):
        torch.testing.assert_close(gradient, each, rtol=0, atol=1e-12)


def random(*shape):
    return torch.randn(*shape, dtype=torch.float64, requires_grad=True)


def test_gathering_equals_the_double_loop():
    torch.manual_seed(0)
    assert_same(gather_objects, slow_gather, (random(B, C, H, W), random(B, K, H, W)))


def test_mixing_equals_the_double_loop():
    torch.manual_seed(0)
    inputs = (random(B, C, H, W), random(B, C, K, 1), random(B, C, K, 1))
    assert_same(mix_objects, slow_mix, inputs)


def test_gathering_weighs_pixels_and_its_weights_sum_to_one():
    coarse = torch.randn(B, K, H, W)
    objects = gather_objects(torch.ones(B, C, H, W), coarse)
    torch.testing.assert_close(objects, torch.ones(B, C, K, 1))
    # One pixel that alone looks like class 2 is the whole of that class's vector.
    coarse[:, 2, 3, 4] = 100.0
    pixels = torch.randn(B, C, H, W)
    torch.testing.assert_close(gather_objects(pixels, coarse)[:, :, 2, 0], pixels[:, :, 3, 4])


def test_the_regions_decide_and_are_supervised():
    torch.manual_seed(0)
    model = build_model("ocrnet", build_backbone("resnet18", output_stride=8), 3, width=32)
    images = torch.rand(2, 3, 64, 64)
    (coarse,) = model.train()(images).auxiliary
    assert coarse.shape == (2, 3, 8, 8)
    with torch.no_grad():
        before = model.eval()(images).logits
        model.regions[1][1].weight.mul_(-50)
        change = (model(images).logits - before).abs().max()
    assert change > 1e-3 * before.abs().max()
    # The main logits alone teach the regions: the coarse map is not detached.
    model.zero_grad()
    model.train()(images).logits.square().sum().backward()
    assert model.regions[1][1].weight.grad.abs().max() > 0


def test_asp_joins_an_atrous_pyramid_in_the_place_of_the_pixels():
    torch.manual_seed(0)
    backbone = build_backbone("resnet18", output_stride=8)
    options = {"context": "asp", "width": 32, "key_width": 16, "dilations": [2, 4], "bias": True}
    model = build_model("ocrnet", backbone, 3, **options).eval()
    point, *atrous = model.pyramid.branches
    assert [branch[0].dilation for branch in atrous] == [(2, 2), (4, 4)]
    assert all(branch[0].bias is not None for branch in (point, *atrous))
    images = torch.rand(2, 3, 65, 97)
    with torch.no_grad():
        *_, middle, last = backbone(images)
        pixels = model.pixels(last)
        context = model.attend(pixels, gather_objects(pixels, model.regions(middle)))
        parts = [context, *(branch(last) for branch in (point, *atrous))]
        expected = model.classify(model.join(torch.cat(parts, dim=1)))
        torch.testing.assert_close(model(images).logits, expected)


def test_an_unknown_context_is_named():
    with pytest.raises(InputError, match="method ocrnet: context is plain or asp, not 'aspp'"):
        build_model("ocrnet", build_backbone("resnet18"), 3, context="aspp")
