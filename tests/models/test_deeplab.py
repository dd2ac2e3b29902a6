"""The DeepLab family against torchvision's head and against modules put together by hand."""

import pytest
import torch
import torch.nn.functional as F
from torchvision.models.segmentation.deeplabv3 import DeepLabHead

from segcore.backbones import Backbone, build_backbone
from segcore.errors import InputError
from segcore.models import build_model


class Given(Backbone):
    """A backbone whose features are what the test says."""

    def __init__(self, *features, strides):
        super().__init__()
        self.features = list(features)
        self.channels = tuple(each.shape[1] for each in features)
        self.strides = strides

    def forward(self, images):
        return self.features


def random(*shape):
    return torch.randn(*shape, dtype=torch.float64, requires_grad=True)


def shaken(model):
    """In float64 and eval mode, with weights and statistics that no two channels share."""
    for each in model.modules():
        if isinstance(each, torch.nn.BatchNorm2d):
            torch.nn.init.normal_(each.running_mean, std=0.1)
            torch.nn.init.uniform_(each.running_var, 0.5, 2)
            torch.nn.init.uniform_(each.weight, 0.5, 2)
            torch.nn.init.normal_(each.bias)
    return model.double().eval()


def block(sequence, x):
    convolution, norm, *relu = sequence
    x = norm(convolution(x))
    return F.relu(x) if relu else x


def assert_same(ours, theirs, inputs):
    assert theirs.abs().max() > 1e-3
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-11)
    upstream = torch.randn_like(ours)
    gradients = torch.autograd.grad(ours, inputs, upstream)
    expected = torch.autograd.grad(theirs, inputs, upstream)
    for gradient, each in zip(gradients, expected, strict=True):
        torch.testing.assert_close(gradient, each, rtol=0, atol=1e-11)


IMAGES = torch.zeros(2, 3, 72, 104, dtype=torch.float64)


def test_deeplabv2_sums_its_classifiers():
    torch.manual_seed(0)
    last = random(2, 6, 9, 13)
    model = shaken(build_model("deeplabv2", Given(last, strides=(8,)), 4, dilations=[1, 2, 6]))
    expected = torch.zeros(2, 4, 9, 13, dtype=torch.float64)
    for conv, dilation in zip(model.classifiers, (1, 2, 6), strict=True):
        torch.nn.init.normal_(conv.bias)
        padded = F.conv2d(last, conv.weight, conv.bias, padding=dilation, dilation=dilation)
        expected = expected + padded
    assert_same(model(IMAGES).logits, expected, [last])


def test_deeplabv2_needs_a_dilation():
    with pytest.raises(InputError, match=r"dilations must be a list of .*, not \[\]"):
        build_model("deeplabv2", Given(random(1, 2, 8, 8), strides=(8,)), 4, dilations=[])


def test_deeplabv3_equals_torchvision_s_head():
    torch.manual_seed(0)
    last = random(2, 8, 9, 13)
    options = {"width": 256, "projection_kernel": 1, "num_convs": 1, "dilations": [2, 4, 6]}
    backbone = Given(last, last, strides=(8, 8))
    model = shaken(build_model("deeplabv3", backbone, 5, auxiliary=False, **options))
    head = shaken(DeepLabHead(8, 5, (2, 4, 6)))
    aspp = head[0]
    *convs, pooling = aspp.convs
    for ours, theirs in zip(model.pyramid.branches, convs, strict=True):
        ours.load_state_dict(theirs.state_dict())
    copied = {key.replace("project.", ""): each for key, each in aspp.project.state_dict().items()}
    # torchvision has the image's average last, MMSegmentation and we have it first.
    copied["0.weight"] = copied["0.weight"].roll(256, dims=1)
    model.project.load_state_dict(copied)
    for ours, theirs in (
        (model.pooling.project[0], pooling[1]),
        (model.pooling.project[1], pooling[2]),
        (model.convs[0][0], head[1]),
        (model.convs[0][1], head[2]),
        (model.classify[1], head[4]),
    ):
        ours.load_state_dict(theirs.state_dict())
    assert_same(model(IMAGES).logits, head(last), [last])


def test_deeplabv3plus_joins_a_fine_feature_to_the_enlarged_context():
    torch.manual_seed(0)
    fine, last = random(2, 5, 17, 25), random(2, 8, 9, 13)
    options = {"width": 16, "low_level_width": 3, "dilations": [2, 4]}
    backbone = Given(fine, last, last, strides=(4, 8, 8))
    model = shaken(build_model("deeplabv3plus", backbone, 5, auxiliary=False, **options))
    parts = [block(model.pooling.project, F.adaptive_avg_pool2d(last, 1)).expand(-1, -1, 9, 13)]
    single, *spread = model.pyramid.branches
    parts += [block(single, last), *(block(b, block(a, last)) for a, b in spread)]
    context = block(model.project, torch.cat(parts, dim=1))
    context = F.interpolate(context, (17, 25), mode="bilinear", align_corners=False)
    x = torch.cat([context, block(model.reduce, fine)], dim=1)
    for depthwise, pointwise in model.decode:
        x = block(pointwise, block(depthwise, x))
    expected = F.conv2d(x, model.classify[1].weight, model.classify[1].bias)
    assert model.project[0].kernel_size == (3, 3)
    assert [conv[0][0].dilation for conv in spread] == [(2, 2), (4, 4)]
    assert [conv[0][0].groups for conv in spread] == [8, 8]
    assert model.reduce[0].out_channels == 3
    assert_same(model(IMAGES).logits, expected, [fine, last])


def test_deeplabv3plus_reads_stride_four_of_a_mobilenet():
    backbone = build_backbone("mobilenetv2_100", output_stride=16)
    model = build_model("deeplabv3plus", backbone, 3, width=16, dilations=[6, 12, 18]).eval()
    assert model.reduce[0].in_channels == 24
    assert model(torch.rand(1, 3, 65, 97)).logits.shape == (1, 3, 17, 25)


def test_deeplabv3plus_says_that_it_needs_a_fine_feature():
    backbone = Given(random(1, 2, 8, 8), random(1, 2, 8, 8), strides=(8, 8))
    with pytest.raises(InputError, match=r"needs features at strides 4; .* have strides 8, 8"):
        build_model("deeplabv3plus", backbone, 3)


@pytest.mark.parametrize("method", ["deeplabv3", "deeplabv3plus"])
def test_one_image_cannot_train_a_pooled_average(method):
    backbone = build_backbone("resnet18", output_stride=8)
    model = build_model(method, backbone, 3, width=8, auxiliary_width=8).train()
    with pytest.raises(InputError, match=r"a single value per channel .* at least 2 images"):
        model(torch.rand(1, 3, 64, 64))
    assert model(torch.rand(2, 3, 64, 64)).logits.shape[:2] == (2, 3)


def test_one_image_trains_deeplabv2():
    model = build_model("deeplabv2", build_backbone("resnet18", output_stride=8), 3).train()
    assert model(torch.rand(1, 3, 64, 64)).logits.shape == (1, 3, 8, 8)
