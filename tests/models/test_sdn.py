"""Two stacked units written out step by step, and what each option changes."""

import pytest
import torch
import torch.nn.functional as F

from segcore.backbones import build_backbone
from segcore.errors import InputError
from segcore.models import build_model

CLASSES = 3
NARROW = {"fine_width": 6, "middle_width": 8, "coarse_width": 10, "layer_width": 4}


def build(*, backbone=None, **options):
    """On strides 4, 8, 16 of a small ResNet: 8, 16 and 24 channels."""
    torch.manual_seed(0)
    chosen = backbone or {"out_indices": [0, 1, 2, 3]}
    built = build_backbone("resnet18", layers=(1, 1, 1, 1), channels=(8, 16, 24, 32), **chosen)
    return build_model("sdn", built, CLASSES, **(NARROW | options))


def count(module):
    return sum(each.numel() for each in module.parameters())


# --- sizes -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("reduce_laterals", "stacks", "parameters"),
    [
        (True, 1, 75_410_848),
        (True, 2, 148_773_280),
        (True, 3, 222_135_712),
        (False, 1, 82_545_856),
        (False, 2, 163_543_360),
        (False, 3, 244_540_864),
    ],
)
def test_sizes_of_both_readings_of_the_paper(reduce_laterals, stacks, parameters):
    """Without classifiers, on DenseNet-161 without its last block."""
    with torch.device("meta"):
        backbone = build_backbone("densenet161", out_indices=[0, 1, 2, 3])
        options = {"stacks": stacks, "reduce_laterals": reduce_laterals}
        model = build_model("sdn", backbone, 19, **options)
    assert backbone.strides == (4, 8, 16)
    assert count(model) - count(model.classify) - count(model.auxiliary) == parameters


def conv(inputs, outputs, kernel=3):
    return inputs * outputs * kernel**2 + outputs


def layer(inputs):
    return 2 * inputs + conv(inputs, 4)


@pytest.mark.parametrize(
    ("options", "more"),
    [
        ({"deconvolution": 2}, 2 * sum(conv(i, i, 2) - conv(i, i, 4) for i in (10, 8))),
        # Two layers fewer before the second unit's coarsest map, and so fewer to compress.
        ({"bottom_layers": 2}, -(layer(18 + 8) + layer(18 + 12) + 9 * 8 * 10)),
        # The last map is what was joined: 8 and 4 channels, and 4 of either layer.
        ({"compress_last": False}, conv(20, CLASSES) - conv(6, CLASSES) - conv(20, 6)),
        ({"supervise_bottom": False}, -2 * conv(10, CLASSES)),
        ({"auxiliary": False}, -2 * (conv(10, CLASSES) + conv(8, CLASSES))),
        ({"sum_scores": False}, 0),
        ({"dropout": 0.2}, 0),
    ],
)
def test_what_an_option_costs(options, more):
    assert count(build(stacks=2, **options)) - count(build(stacks=2)) == more


def test_the_last_feature_may_stay_as_it_is():
    model = build(stacks=2, compress_bottom=False)
    assert isinstance(model.enter, torch.nn.Identity)
    assert [each.outputs for each in model.units] == [[24, 8, 6], [10, 8, 6]]
    assert model.train()(torch.rand(2, 3, 65, 97)).logits.shape == (2, CLASSES, 17, 25)


# --- step by step --------------------------------------------------------------------------------


def apply_layer(module, x):
    norm, _, convolution, dropout = module
    assert dropout.p == 0
    x = F.batch_norm(x, norm.running_mean, norm.running_var, norm.weight, norm.bias)
    return F.conv2d(x.clamp(min=0), convolution.weight, convolution.bias, padding=1)


def dense(step, x):
    for each in step.layers:
        x = torch.cat([x, apply_layer(each, x)], dim=1)
    return F.conv2d(x, step.compress.weight, step.compress.bias, padding=1)


def up(step, x, lateral):
    """A transposed convolution is the convolution of what is spread out by zeros."""
    move, (batch, channels, height, width) = step.move, x.shape
    spread = x.new_zeros(batch, channels, 2 * height - 1, 2 * width - 1)
    spread[:, :, ::2, ::2] = x
    padded = F.pad(spread, (2, 3, 2, 3))
    x = F.conv2d(padded, move.weight.transpose(0, 1).flip(2, 3), move.bias)
    return dense(step, torch.cat([x[:, :, : lateral.shape[2], : lateral.shape[3]], lateral], 1))


def down(step, x, link):
    x = F.pad(x, (0, x.shape[3] % 2, 0, x.shape[2] % 2), value=-float("inf"))
    pooled = torch.stack([x[:, :, i::2, j::2] for i in (0, 1) for j in (0, 1)]).amax(0)
    pooled = pooled[:, :, : link.shape[2], : link.shape[3]]
    return dense(step, torch.cat([pooled, link], dim=1))


def step_by_step(model, images):
    """Every score of two units: strides 16, 8 and 4 of the first, then of the second."""
    fine, middle, bottom = model.backbone(images)
    middle, fine = (apply_layer(*each) for each in zip(model.laterals, (middle, fine), strict=True))
    first, second = model.units
    a16 = F.conv2d(bottom, model.enter.weight, model.enter.bias, padding=1)
    a8 = up(first.decoder[0], a16, middle)
    a4 = up(first.decoder[1], a8, fine)
    b8 = down(second.encoder[0], a4, a8)
    b16 = down(second.encoder[1], b8, a16)
    b8 = up(second.decoder[0], b16, middle)
    b4 = up(second.decoder[1], b8, fine)
    heads = (*model.auxiliary, model.classify)
    a = [head[0](each) for head, each in zip(heads, (a16, a8, a4), strict=True)]
    b = [head[1](each) for head, each in zip(heads, (b16, b8, b4), strict=True)]
    return a, b


@pytest.mark.parametrize("size", [(64, 96), (65, 97), (79, 50)])
@pytest.mark.parametrize("sum_scores", [True, False])
def test_two_units_equal_their_steps_forward_and_backward(size, sum_scores):
    model = build(stacks=2, sum_scores=sum_scores).double().eval()
    images = torch.rand(2, 3, *size, dtype=torch.float64)
    a, b = step_by_step(model, images)
    if sum_scores:
        b = [first + second for first, second in zip(a, b, strict=True)]
    torch.testing.assert_close(model(images).logits, b[2], rtol=1e-10, atol=1e-10)
    for module in model.modules():
        module.training = not isinstance(module, torch.nn.BatchNorm2d)
    logits, auxiliary, _ = model(images)
    expected = (a[0], b[0], a[1], b[1], a[2], b[2])
    found = (*auxiliary, logits)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)
    parameters = [each for each in model.parameters() if each.requires_grad]
    upstream = [torch.randn_like(each) for each in expected]
    ours = torch.autograd.grad(found, parameters, upstream)
    theirs = torch.autograd.grad(expected, parameters, upstream)
    torch.testing.assert_close(ours, theirs, rtol=1e-8, atol=1e-8)


def test_maps_that_rounded_down_are_met_too():
    """DenseNet's pooling leaves 4 of 9 rows, where others leave 5."""
    torch.manual_seed(0)
    options = {"growth_rate": 4, "block_config": (1, 1, 1, 1), "out_indices": [0, 1, 2, 3]}
    backbone = build_backbone("densenet121", **options)
    model = build_model("sdn", backbone, CLASSES, stacks=2, **NARROW).train()
    images = torch.rand(2, 3, 75, 68)
    sizes = [tuple(each.shape[2:]) for each in backbone(images)]
    assert sizes == [(19, 17), (9, 8), (4, 4)]
    found = [tuple(each.shape[2:]) for each in model(images).auxiliary]
    assert found == [sizes[2]] * 2 + [sizes[1]] * 2 + [sizes[0]]


def test_without_auxiliary_heads_the_finest_maps_are_supervised_still():
    model = build(stacks=3, auxiliary=False).train()
    prediction = model(torch.rand(2, 3, 64, 64))
    assert [each.shape[2:] for each in prediction.auxiliary] == [(16, 16)] * 2
    sum(each.square().sum() for each in (prediction.logits, *prediction.auxiliary)).backward()
    assert all(each.grad is not None for each in model.parameters())


def test_of_two_features_at_stride_16_the_later_one_is_read():
    model = build(backbone={"output_stride": 16})
    assert model.backbone.strides == (4, 8, 16, 16)
    assert model.enter.in_channels == 32
    assert len(model.units[0].decoder) == 2


def test_a_backbone_that_goes_to_stride_32_has_one_step_more():
    model = build(backbone={"output_stride": None}, stacks=2).train()
    assert [each.outputs for each in model.units] == [[10, 10, 8, 6]] * 2
    auxiliary = model(torch.rand(2, 3, 64, 64)).auxiliary
    sides = [2, 2, 4, 4, 8, 8, 16]
    assert [tuple(each.shape[2:]) for each in auxiliary] == [(side, side) for side in sides]


def test_what_cannot_be_built_is_told():
    with pytest.raises(InputError, match="stacks must be a whole number of at least 1, not 0"):
        build(stacks=0)
    with pytest.raises(InputError, match="deconvolution must be 2 or 4, not 3"):
        build(deconvolution=3)
    with pytest.raises(InputError, match="needs features at strides 4, 8, 16"):
        build(backbone={"output_stride": 8})
