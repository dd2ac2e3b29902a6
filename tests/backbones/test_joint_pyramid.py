"""JPU against its formula in float64, and under methods that know nothing of it."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from segcore.backbones import build_backbone
from segcore.errors import InputError
from segcore.models import build_model

NARROW = {"channels": (4, 8, 16, 32), "pyramid": "joint"}


def build(name="resnet18", **options):
    torch.manual_seed(0)
    return build_backbone(name, **NARROW | {"pyramid_options": {"width": 6}} | options)


def norm(x, layer):
    mean, scale = layer.running_mean, layer.weight / (layer.running_var + layer.eps).sqrt()
    return (x - mean[:, None, None]) * scale[:, None, None] + layer.bias[:, None, None]


def test_equals_the_formula():
    backbone = build()
    for each in backbone.modules():
        if isinstance(each, nn.BatchNorm2d):
            nn.init.uniform_(each.weight, 0.5, 1.5)
            nn.init.uniform_(each.bias, -0.5, 0.5)
            nn.init.uniform_(each.running_mean, -0.5, 0.5)
    backbone = backbone.double().eval()
    images = torch.randn(2, 3, 97, 129, dtype=torch.float64, requires_grad=True)
    second, third, fourth, joint = backbone(images)
    plain = backbone.body(images)
    for got, want in zip((second, third, fourth), plain, strict=False):
        torch.testing.assert_close(got, want)

    parts = []
    for layers, feature in zip(backbone.enter, plain[1:], strict=True):
        part = norm(F.conv2d(feature, layers[0].weight, padding=1), layers[1]).relu()
        parts.append(F.interpolate(part, (13, 17), mode="bilinear", align_corners=False))
    joined = torch.cat(parts, dim=1)
    outputs = []
    for (depthwise, pointwise), dilation in zip(backbone.branches, (1, 2, 4, 8), strict=True):
        weight = depthwise[0].weight
        alone = [
            F.conv2d(joined[:, i : i + 1], weight[i : i + 1], padding=dilation, dilation=dilation)
            for i in range(18)
        ]
        x = norm(torch.cat(alone, dim=1), depthwise[1])  # no ReLU in between
        x = torch.einsum("bchw,dc->bdhw", x, pointwise[0].weight[:, :, 0, 0])
        outputs.append(norm(x, pointwise[1]).relu())
    expected = torch.cat(outputs, dim=1)
    torch.testing.assert_close(joint, expected, rtol=0, atol=1e-10)
    (gradient,) = torch.autograd.grad(joint.square().mean(), images, retain_graph=True)
    (slower,) = torch.autograd.grad(expected.square().mean(), images)
    assert slower.abs().max() > 0
    torch.testing.assert_close(gradient, slower, rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize(
    ("name", "options", "channels", "strides"),
    [
        ("resnet18", {}, (4, 8, 16, 24), (4, 8, 16, 8)),
        ("resnet18", {"pyramid_options": {"width": 2, "dilations": [1, 3]}}, (4, 8, 16, 4), None),
        ("densenet121", {"growth_rate": 4, "channels": None}, None, (4, 8, 16, 8)),
        ("wide_resnet38_a1", {"width": 1}, (4, 8, 16, 32, 24), (4, 8, 16, 32, 8)),
    ],
)
def test_features_are_what_is_declared(name, options, channels, strides):
    keywords = {"pyramid": "joint", "pyramid_options": {"width": 6}} | options
    if name == "resnet18":
        keywords |= {"channels": NARROW["channels"]}
    else:
        keywords.pop("channels", None)
    backbone = build_backbone(name, **keywords).eval()
    assert backbone.channels == (channels or backbone.channels)
    assert backbone.strides == (strides or backbone.strides)
    with torch.no_grad():
        features = backbone(torch.rand(1, 3, 97, 129))
    assert tuple(each.shape[1] for each in features) == backbone.channels
    assert features[-1].shape[-2:] == features[1].shape[-2:]


def test_the_default_has_the_published_width_and_count():
    with torch.device("meta"):
        backbone = build_backbone("resnet50c", pyramid="joint")
    assert backbone.channels == (256, 512, 1024, 2048)
    neck = [*backbone.enter.parameters(), *backbone.branches.parameters()]
    assert sum(each.numel() for each in neck) == 19735552


@pytest.mark.parametrize("method", ["fcn", "pspnet", "ocrnet"])
def test_methods_read_it_and_supervise_the_plain_feature(method):
    model = build_model(method, build(), 3, width=8).train()
    prediction = model(torch.rand(2, 3, 97, 129))
    assert prediction.logits.shape == (2, 3, 13, 17)
    (coarse,) = prediction.auxiliary
    # OCRNet's coarse prediction is enlarged to the last feature; others' stays at stride 16.
    assert coarse.shape[-2:] == ((13, 17) if method == "ocrnet" else (7, 9))
    outputs = (prediction.logits, coarse)
    sum(each.square().mean() for each in outputs).backward()
    assert [key for key, each in model.named_parameters() if each.grad is None] == []


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("resnet18", {"output_stride": 8}, "strides 8, 16 and 32; these have 4, 8, 8, 8; leave ou"),
        ("vit_tiny_patch16_224", {}, "these have 16.*choose another backbone"),
        ("resnet18", {"pyramid_options": {"widht": 3}}, "pyramid joint has no option 'widht'; did"),
        ("resnet18", {"pyramid_options": {"width": -1}}, "pyramid joint with {'width': -1}: "),
        ("resnet18", {"pyramid": None, "pyramid_options": {"width": 3}}, "name one, or leave"),
        (
            "resnet18",
            {"pyramid": "concat", "pyramid_options": {"width": 3}},
            "concat has no option",
        ),
    ],
)
def test_refusals_say_what_would_work(name, options, message):
    with torch.device("meta"), pytest.raises(InputError, match=message):
        build_backbone(name, **{"pyramid": "joint"} | options)
