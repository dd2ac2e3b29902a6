"""RefineNet's blocks against their plain form in float64, forward and backward."""

import pytest
import torch
import torch.nn.functional as F

from segcore.backbones import build_backbone
from segcore.models import build_model
from segcore.models.refinenet import ChainedPooling, FusingBlock, ResidualUnit


def slow_unit(unit, x):
    """Of ReLUs and convolutions of whole images, summed tap by tap."""
    hidden = slow_conv(x.clamp(min=0), unit.first.weight) + unit.first.bias[:, None, None]
    return x + slow_conv(hidden.clamp(min=0), unit.second.weight)


def slow_conv(x, weight):
    height, width = x.shape[-2:]
    padded = F.pad(x, (1, 1, 1, 1))
    return sum(
        torch.einsum(
            "oc,bchw->bohw", weight[:, :, i, j], padded[..., i : i + height, j : j + width]
        )
        for i in range(3)
        for j in range(3)
    )


def slow_pooling(module, x):
    x = top = x.clamp(min=0)
    for each in module.convs:
        windows = F.pad(top, (2, 2, 2, 2), value=-float("inf")).unfold(2, 5, 1).unfold(3, 5, 1)
        top = slow_conv(windows.amax(dim=(-2, -1)), each.weight)
        x = x + top
    return x


def slow_fusion(module, feature, below):
    first, *units = module.adapt
    x = slow_conv(feature, first.weight)
    for unit in units:
        x = slow_unit(unit, x)
    below = slow_conv(below, module.below.weight)
    below = F.interpolate(below, x.shape[-2:], mode="bilinear", align_corners=False)
    pooling, *units = module.gather
    x = slow_pooling(pooling, slow_conv(x, module.project.weight) + below)
    for unit in units:
        x = slow_unit(unit, x)
    return x


def assert_same(module, slow, *shapes):
    """Outputs, and gradients of inputs and parameters, with weights of a size that shows."""
    module = module.double()
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    inputs = [torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in shapes]
    ours, theirs = module(*inputs), slow(module, *inputs)
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)
    sources = [*inputs, *module.parameters()]
    upstream = torch.randn_like(ours)
    found = torch.autograd.grad(ours, sources, upstream)
    expected = torch.autograd.grad(theirs, sources, upstream)
    for gradient, each in zip(found, expected, strict=True):
        torch.testing.assert_close(gradient, each, rtol=1e-11, atol=1e-11)


def test_residual_unit_equals_the_plain_form():
    torch.manual_seed(0)
    assert_same(ResidualUnit(4), slow_unit, (2, 4, 5, 7))


@pytest.mark.parametrize("pools", [2, 4])
def test_chained_pooling_equals_the_plain_form(pools):
    torch.manual_seed(0)
    assert_same(ChainedPooling(3, pools), slow_pooling, (2, 3, 7, 9))


@pytest.mark.parametrize("units", [1, 3])
def test_fusion_equals_the_plain_form_where_sizes_are_no_multiples(units):
    torch.manual_seed(0)
    assert_same(FusingBlock(3, 4, 5, 2, units), slow_fusion, (1, 3, 9, 5), (1, 5, 5, 3))


def test_cascade_from_the_coarsest_feature_to_the_finest():
    torch.manual_seed(0)
    backbone = build_backbone("resnet18", layers=(1, 1, 1, 1), channels=(8, 16, 24, 32))
    model = build_model("refinenet", backbone, 3, width=8, coarse_width=16).eval()
    images = torch.rand(2, 3, 65, 97)
    with torch.no_grad():
        fine, middle, coarse, coarsest = backbone(images)
        x = model.coarsest(coarsest)
        for block, feature in zip(model.finer, (coarse, middle, fine), strict=True):
            x = slow_fusion(block, feature, x)
        expected = F.conv2d(x, model.classify.weight, model.classify.bias, padding=1)
        logits = model(images).logits
    assert logits.shape == (2, 3, 17, 25)
    torch.testing.assert_close(logits, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("options", "parameters"),
    [
        # 512² and 256² are the weights of one tap: a level's convolution has nine of them.
        ({}, 75_547_667),
        ({"pools": 2}, 75_547_667 - 9 * 2 * (512**2 + 3 * 256**2)),
        ({"output_units": 1}, 75_547_667 - 2 * (18 * (512**2 + 3 * 256**2) + 512 + 3 * 256)),
    ],
)
def test_decoder_of_both_forms(options, parameters):
    with torch.device("meta"):
        backbone = build_backbone("resnet50")
        model = build_model("refinenet", backbone, 19, **options)
    own = sum(each.numel() for each in model.parameters())
    assert own - sum(each.numel() for each in backbone.parameters()) == parameters
    names = {
        type(module).__name__ for name, module in model.named_modules() if "backbone" not in name
    }
    assert "BatchNorm2d" not in names


def test_dropout_is_on_the_two_coarsest_features_and_before_the_classifier():
    torch.manual_seed(0)
    backbone = build_backbone("resnet18", layers=(1, 1, 1, 1), channels=(8, 16, 24, 32))
    model = build_model("refinenet", backbone, 3, width=8, coarse_width=16).train()
    dropped = []
    model.dropout.register_forward_hook(lambda _, inputs, __: dropped.append(inputs[0].shape[1]))
    model(torch.rand(2, 3, 64, 64))
    assert dropped == [32, 24, 8]
    assert model.dropout.p == 0.5


def test_scores_start_near_one_without_batchnorm_in_the_decoder():
    torch.manual_seed(0)
    backbone = build_backbone("resnet18", layers=(1, 1, 1, 1), channels=(8, 16, 24, 32))
    model = build_model("refinenet", backbone, 3).train()
    scores = model(torch.randn(2, 3, 65, 97)).logits
    assert 1e-3 < scores.std() < 1
