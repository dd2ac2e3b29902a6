"""Wide-ResNet-38 against the table of its paper written out, and what its forms share."""

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import nn

from segcore.backbones import build_backbone
from segcore.errors import InputError

BLOCKS = {2: 3, 3: 3, 4: 6, 5: 3, 6: 1, 7: 1}
FORMS = {
    # form, options: pools as {stage: (stride, dilation)}, strides of stages' first convolutions,
    # dilations {stage: (first 3x3, all others)}
    "a1": (
        {"output_stride": 8}, {}, {2: 2, 3: 2, 4: 2}, {5: (1, 2), 6: (4, 4), 7: (4, 4)},
    ),
    "a1-openseg": (
        {"output_stride": 8, "contract_dilation": False},
        {}, {2: 2, 3: 2, 4: 2}, {5: (2, 2), 6: (4, 4), 7: (4, 4)},
    ),
    "a1-classification": ({}, {}, {2: 2, 3: 2, 4: 2, 5: 2, 6: 2}, {}),
    "a2": (
        {"output_stride": 8},
        {2: (2, 1), 3: (2, 1)}, {4: 2}, {5: (1, 2), 6: (4, 4), 7: (4, 4)},
    ),
    "a": (
        {"output_stride": 8},
        {2: (2, 1), 3: (2, 1), 4: (2, 1), 5: (1, 1), 6: (1, 2)},
        {}, {5: (2, 2), 6: (4, 4), 7: (4, 4)},
    ),
}  # fmt: skip


def build(form="a1", **options):
    torch.manual_seed(0)
    backbone = build_backbone(f"wide_resnet38_{form.partition('-')[0]}", width=2, **options)
    for each in backbone.modules():
        if isinstance(each, nn.BatchNorm2d):
            nn.init.uniform_(each.weight, 0.5, 1.0)
            nn.init.uniform_(each.bias, -0.2, 0.2)
            nn.init.uniform_(each.running_mean, -0.2, 0.2)
            nn.init.uniform_(each.running_var, 0.5, 1.5)
    return backbone.double().eval()


def table(weights, images, pools, strides, dilations):
    """The network of section 4.1, from its weights by name."""

    def activate(x, name):
        mean, variance = weights[f"{name}.0.running_mean"], weights[f"{name}.0.running_var"]
        scale = weights[f"{name}.0.weight"] / (variance + 1.001e-5).sqrt()
        shift = weights[f"{name}.0.bias"] - mean * scale
        return (x * scale[:, None, None] + shift[:, None, None]).relu()

    def convolve(x, name, stride, dilation):
        weight = weights[f"{name}.weight"]
        reach = dilation if weight.shape[-1] == 3 else 1
        return F.conv2d(x, weight, None, stride, reach * (weight.shape[-1] // 2), reach)

    x, features = F.conv2d(images, weights["stem.weight"], padding=1), []
    for stage, blocks in BLOCKS.items():
        if stage in pools:
            stride, dilation = pools[stage]
            x = F.max_pool2d(F.pad(x, [dilation] * 4, value=-1e9), 3, stride, dilation=dilation)
        for block in range(blocks):
            name = f"stages.{stage - 2}.{block + 1}"
            stride = strides.get(stage, 1) if block == 0 else 1
            first, other = dilations.get(stage, (1, 1))
            y = activate(x, f"{name}.activate")
            if block == 0:
                x = F.conv2d(y, weights[f"{name}.shortcut.weight"], stride=stride)
                y = convolve(y, f"{name}.convs.0", stride, first)
            else:
                y = convolve(y, f"{name}.convs.0", 1, other)
            y = activate(y, f"{name}.convs.1")
            if stage < 6:
                y = convolve(y, f"{name}.convs.3", 1, other)
            else:
                y = convolve(y, f"{name}.convs.2", 1, other)
                y = convolve(activate(y, f"{name}.convs.3"), f"{name}.convs.5", 1, 1)
            x = x + y
        features.append(x)
    return [*features[1:-1], activate(x, "finish")]


@pytest.mark.parametrize("form", FORMS)
def test_equals_the_table(form):
    options, *shape = FORMS[form]
    backbone = build(form, **options)
    images = torch.randn(2, 3, 45, 67, dtype=torch.float64, requires_grad=True)
    features = backbone(images)
    expected = table(backbone.state_dict(), images, *shape)
    for got, want, channels in zip(features, expected, backbone.channels, strict=True):
        assert got.shape[1] == channels
        torch.testing.assert_close(got, want, rtol=0, atol=1e-10)
    (gradient,) = torch.autograd.grad(sum(each.square().mean() for each in features), images)
    (slower,) = torch.autograd.grad(sum(each.square().mean() for each in expected), images)
    assert slower.abs().max() > 1e-4
    torch.testing.assert_close(gradient, slower, rtol=0, atol=1e-10)


@pytest.mark.parametrize("form", ["a", "a1", "a2"])
@pytest.mark.parametrize(
    ("output_stride", "strides"),
    [(8, (4, 8, 8, 8, 8)), (16, (4, 8, 16, 16, 16)), (32, (4, 8, 16, 32, 32))],
)
def test_features_are_what_is_declared(form, output_stride, strides):
    backbone = build(form, output_stride=output_stride)
    assert backbone.strides == strides
    assert backbone.channels == (8, 16, 32, 64, 128)
    for size in ((64, 96), (97, 129)):
        with torch.no_grad():
            features = backbone(torch.rand(1, 3, *size, dtype=torch.float64))
        got = [tuple(each.shape[2:]) for each in features]
        assert got == [tuple(-(-n // stride) for n in size) for stride in strides]


def test_gradient_reaches_every_parameter():
    backbone = build("a2", output_stride=8).train()
    backbone(torch.rand(2, 3, 33, 41, dtype=torch.float64))[-1].square().mean().backward()
    assert [key for key, each in backbone.named_parameters() if each.grad is None] == []


def test_dropout_is_before_the_last_convolution_of_the_last_two_stages():
    dropouts = {
        name: each.p for name, each in build("a1").named_modules() if isinstance(each, nn.Dropout)
    }
    assert dropouts == {"stages.4.1.convs.4": 0.3, "stages.5.1.convs.4": 0.5}
    openseg = build("a1", dropout=[0.0, 0.0])
    assert not [each for each in openseg.modules() if isinstance(each, nn.Dropout)]
    assert list(openseg.state_dict()) == list(build("a2").state_dict())


def test_weights_come_from_a_folder_alone(tmp_path):
    source = build_backbone("wide_resnet38_a1", width=2)
    with pytest.raises(InputError, match=r"not published.*wide_resnet38_a1\.safetensors"):
        build_backbone("wide_resnet38_a1", pretrained=True, weights_folder=tmp_path)
    save_file(source.state_dict(), tmp_path / "wide_resnet38_a1.safetensors")
    options = {"pretrained": True, "weights_folder": tmp_path}
    loaded = build_backbone("wide_resnet38_a1", width=2, output_stride=8, **options)
    weights = source.state_dict()
    assert all(torch.equal(each, weights[key]) for key, each in loaded.state_dict().items())
    with pytest.raises(
        InputError, match=r"does not fit this backbone.*size mismatch for stem\.weight"
    ):
        build_backbone("wide_resnet38_a1", width=4, **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"output_stride": 4}, "at output stride 4; it can at 8, 16, 32"),
        ({"widht": 4}, "backbone wide_resnet38_a1 has no option 'widht'; did you mean 'width'"),
        ({"dropout": [0.3]}, r"dropout must be 2 shares, of stages 6 and 7, not \[0.3\]"),
        ({"dropout": [0.3, 1.5]}, r"wide_resnet38_a1 with .*dropout probability"),
    ],
)
def test_refusals_say_what_would_work(options, message):
    with pytest.raises(InputError, match=message):
        build_backbone("wide_resnet38_a1", **{"width": 2} | options)


def test_a_misspelt_name_is_answered_with_ours():
    with pytest.raises(InputError, match="did you mean 'wide_resnet38_a1'"):
        build_backbone("wide_resnet38a1")
