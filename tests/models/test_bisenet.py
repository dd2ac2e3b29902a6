"""BiSeNet's published forms against modules put together by hand, in float64."""

import pytest
import torch
import torch.nn.functional as F

from segcore.backbones import build_backbone
from segcore.errors import InputError
from segcore.models import build_model

NARROW = {"spatial_widths": [4, 5, 6, 7], "context_width": 8, "width": 12, "head_width": 9}


def count(module):
    return sum(parameter.numel() for parameter in module.parameters())


def shaken(model):
    """In float64 and eval mode, with statistics that no two channels share."""
    for name, each in model.named_modules():
        if isinstance(each, torch.nn.BatchNorm2d) and not name.startswith("backbone"):
            torch.nn.init.normal_(each.running_mean, std=0.1)
            torch.nn.init.uniform_(each.running_var, 0.5, 2)
            torch.nn.init.uniform_(each.weight, 0.5, 2)
            torch.nn.init.normal_(each.bias)
    return model.double().eval()


def block(sequence, x):
    convolution, norm, *relu = sequence
    x = norm(convolution(x))
    return F.relu(x) if relu else x


def mean(x):
    return F.adaptive_avg_pool2d(x, 1)


def enlarge(x, size, mode):
    return F.interpolate(x, size, mode=mode, align_corners=False if mode == "bilinear" else None)


def gate(form, layers, x):
    if form == "two_convs":
        first, _, second = layers
        hidden = F.conv2d(x, first.weight).clamp(min=0)
        return 1 / (1 + (-F.conv2d(hidden, second.weight)).exp())
    x = F.batch_norm(
        F.conv2d(x, layers[0].weight),
        layers[1].running_mean,
        layers[1].running_var,
        layers[1].weight,
        layers[1].bias,
    )
    return 1 / (1 + (-(x.clamp(min=0) if form == "norm_relu" else x)).exp())


def refine(module, x):
    x = block(module.conv, x)
    return x * block(module.gate, mean(x)).sigmoid()


def by_hand(model, images, form, mode):
    """Logits and the two maps that auxiliary heads read."""
    *_, c3, c4, c5 = model.backbone(images)
    context = model.context
    coarse = refine(context.refine_last, c5) + block(context.pooling.project, mean(c5))
    coarse = block(context.smooth_last, enlarge(coarse, c4.shape[-2:], mode))
    fine = refine(context.refine_middle, c4) + coarse
    fine = block(context.smooth_middle, enlarge(fine, c3.shape[-2:], mode))
    detail = images
    for layer in model.spatial:
        detail = block(layer, detail)
    x = block(model.fuse.join, torch.cat([detail, fine], dim=1))
    x = x + x * gate(form, model.fuse.gate, mean(x))
    x = block(model.head[0], x)
    return F.conv2d(x, model.head[1][1].weight, model.head[1][1].bias), fine, coarse


@pytest.mark.parametrize("mode", ["nearest", "bilinear"])
@pytest.mark.parametrize("form", ["norm_relu", "norm", "two_convs"])
def test_logits_of_every_published_form(form, mode):
    torch.manual_seed(0)
    model = build_model(
        "bisenet", build_backbone("resnet18"), 3, gate=form, upsampling=mode, **NARROW
    )
    shaken(model)
    images = torch.rand(2, 3, 97, 129, dtype=torch.float64)
    with torch.no_grad():
        expected, fine, coarse = by_hand(model, images, form, mode)
        logits = model(images).logits
        torch.testing.assert_close(logits, expected, rtol=0, atol=1e-12)
    assert logits.shape == (2, 3, 13, 17)
    assert fine.shape == (2, 8, 13, 17)
    assert coarse.shape == (2, 8, 7, 9)


def test_auxiliary_heads_read_the_refined_maps_finer_first():
    torch.manual_seed(0)
    backbone = build_backbone("resnet18")
    model = build_model("bisenet", backbone, 3, auxiliary_width=5, dropout=0.0, **NARROW).double()
    for each in model.modules():
        if isinstance(each, torch.nn.BatchNorm2d):
            each.momentum = 0.0  # both passes then see the same
    images = torch.rand(2, 3, 97, 129, dtype=torch.float64)
    model.train()
    first, second = model(images).auxiliary
    _, fine, coarse = by_hand(model, images, "norm_relu", "nearest")
    torch.testing.assert_close(first, model.auxiliary[0](fine))
    torch.testing.assert_close(second, model.auxiliary[1](coarse))


def test_mmsegmentation_s_gate_never_lowers_by_half():
    torch.manual_seed(0)
    gates = {}
    for form in ("norm_relu", "norm"):
        model = build_model("bisenet", build_backbone("resnet18"), 3, gate=form)
        x = torch.randn(4, 256, 1, 1)
        gates[form] = model.fuse.gate(x).sigmoid()
    assert gates["norm_relu"].min() == 0.5
    assert gates["norm"].min() < 0.4


def test_parts_to_the_last_parameter():
    model = build_model("bisenet", build_backbone("resnet18"), 19)
    context = model.context
    assert count(context.refine_middle) == 311_808
    assert count(context.refine_last) == 606_720
    assert count(context.smooth_last) == count(context.smooth_middle) == 147_712
    assert count(context.pooling) == 65_792
    assert count(model.spatial) == 91_968
    assert count(model.fuse) == 132_096
    assert count(model.head) == 595_219
    assert [count(each) for each in model.auxiliary] == [75_091, 75_091]


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("gate", "norms", "no gate 'norms'; did you mean 'norm'"),
        ("upsampling", "cubic", "no upsampling 'cubic'; there is bilinear, nearest"),
        ("spatial_widths", [64, 128], "spatial_widths must be 3 or 4, not"),
    ],
)
def test_wrong_options_are_named(option, value, message):
    with pytest.raises(InputError, match=message):
        build_model("bisenet", build_backbone("resnet18"), 3, **{option: value})


def test_a_dilated_backbone_is_refused():
    backbone = build_backbone("resnet18", output_stride=8)
    with pytest.raises(InputError, match=r"needs features at strides 16, 32; .* 16 is missing"):
        build_model("bisenet", backbone, 3)


def test_one_image_cannot_train_a_pooled_average():
    model = build_model("bisenet", build_backbone("resnet18"), 3, **NARROW).train()
    with pytest.raises(InputError, match=r"a single value per channel .* at least 2 images"):
        model(torch.rand(1, 3, 64, 64))
    assert model(torch.rand(2, 3, 64, 64)).logits.shape == (2, 3, 8, 8)


def test_of_two_features_at_stride_32_the_later_one_is_read():
    torch.manual_seed(0)
    backbone = build_backbone("wide_resnet38_a1", width=2)
    assert backbone.strides == (4, 8, 16, 32, 32)
    model = shaken(build_model("bisenet", backbone, 3, **NARROW))
    assert model.context.refine_middle.conv[0].in_channels == backbone.channels[2]
    assert model.context.refine_last.conv[0].in_channels == backbone.channels[4]
    images = torch.rand(1, 3, 97, 129, dtype=torch.float64)
    with torch.no_grad():
        features = backbone(images)
        fine, coarse = model.context(features[2], features[4], torch.Size((13, 17)))
        expected = model.head(model.fuse(model.spatial(images), fine))
        torch.testing.assert_close(model(images).logits, expected, rtol=0, atol=1e-12)
    assert coarse.shape[-2:] == (7, 9)


def test_three_widths_are_the_paper_s_spatial_path():
    torch.manual_seed(0)
    options = NARROW | {"spatial_widths": [4, 5, 6]}
    model = shaken(build_model("bisenet", build_backbone("resnet18"), 3, **options))
    forms = [(each[0].kernel_size, each[0].stride) for each in model.spatial]
    assert forms == [((3, 3), (2, 2))] * 3
    images = torch.rand(2, 3, 97, 129, dtype=torch.float64)
    with torch.no_grad():
        expected, *_ = by_hand(model, images, "norm_relu", "nearest")
        torch.testing.assert_close(model(images).logits, expected, rtol=0, atol=1e-12)
