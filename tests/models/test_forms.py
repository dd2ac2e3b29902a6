"""The published forms of FCN and PSPNet against modules put together by hand."""

import pytest
import torch
import torch.nn.functional as F

from segcore.backbones import build_backbone
from segcore.errors import InputError
from segcore.models import build_model
from segcore.models.fcn import plain_head


@pytest.fixture
def backbone():
    torch.manual_seed(0)
    return build_backbone("resnet18", output_stride=8)


def block(sequence, x):
    convolution, norm, _ = sequence
    return F.relu(norm(convolution(x)))


def test_fcn_joins_the_feature_before_its_convolutions(backbone):
    model = build_model("fcn", backbone, 3, width=16).eval()
    images = torch.rand(2, 3, 65, 97)
    with torch.no_grad():
        last = backbone(images)[-1]
        x = block(model.convs[1], block(model.convs[0], last))
        x = block(model.join, torch.cat([last, x], dim=1))
        expected = F.conv2d(x, model.classify[1].weight, model.classify[1].bias)
        torch.testing.assert_close(model(images).logits, expected)


def test_fcn_without_joining_and_with_dilation(backbone):
    options = {"num_convs": 1, "concat_input": False, "dilation": 6, "width": 16}
    model = build_model("fcn", backbone, 3, **options)
    assert model.join is None
    assert len(model.convs) == 1
    assert model.convs[0][0].dilation == (6, 6)
    assert model.eval()(torch.rand(1, 3, 64, 96)).logits.shape == (1, 3, 8, 12)


def test_fcn_has_openseg_s_biases_and_none_in_either_classifier(backbone):
    options = {"num_convs": 1, "concat_input": False, "bias": True, "classifier_bias": False}
    model = build_model("fcn", backbone, 3, width=16, auxiliary_width=8, **options)
    for conv, norm, classify in (
        (*model.convs[0][:2], model.classify[1]),
        (*model.auxiliary[0][:2], model.auxiliary[1][1]),
    ):
        assert conv.bias.shape == norm.bias.shape
        assert classify.bias is None
    joined = build_model("fcn", backbone, 3, width=16, bias=True)
    assert joined.join[0].bias.shape == (16,)
    assert joined.classify[1].bias.shape == (3,)


@pytest.mark.parametrize("count", [1, 2])
def test_fcn_with_the_plain_head_of_wide_resnet(backbone, count):
    model = build_model("fcn", backbone, 3, classifier_convs=count, width=16).double().eval()
    images = torch.rand(2, 3, 65, 97, dtype=torch.float64)
    with torch.no_grad():
        x = backbone(images)[-1]
        for conv in list(model.convs)[::2]:
            torch.nn.init.normal_(conv.bias)
            x = F.relu(F.conv2d(x, conv.weight, conv.bias, padding=12, dilation=12))
        last = model.classify
        expected = F.conv2d(x, last.weight, last.bias, padding=12, dilation=12)
        torch.testing.assert_close(model(images).logits, expected)
    assert x.shape[1] == {1: 512, 2: 16}[count]
    assert not any(isinstance(each, torch.nn.BatchNorm2d) for each in model.convs)
    assert model.train()(images).auxiliary == ()


@pytest.mark.parametrize(("count", "parameters"), [(1, 700_435), (2, 124_033_363 - 105_070_912)])
def test_fcn_counts_of_the_plain_head(count, parameters):
    with torch.device("meta"):
        convs, classify = plain_head(4096, 19, 512, count)
    modules = (convs, classify)
    assert sum(each.numel() for module in modules for each in module.parameters()) == parameters


@pytest.mark.parametrize("count", [-1, 3])
def test_fcn_s_plain_head_has_one_convolution_or_two(backbone, count):
    with pytest.raises(InputError, match=f"classifier_convs must be 0, 1 or 2, not {count}"):
        build_model("fcn", backbone, 3, classifier_convs=count)


def test_pspnet_equals_the_form_with_torch_s_pooling(backbone):
    model = build_model("pspnet", backbone, 3, width=16, grids=[1, 2, 4]).eval()
    images = torch.rand(2, 3, 65, 97)
    with torch.no_grad():
        last = backbone(images)[-1]
        parts = [last]
        for grid, project in zip((1, 2, 4), model.pyramid.project, strict=True):
            cells = block(project, F.adaptive_avg_pool2d(last, grid))
            parts.append(F.interpolate(cells, last.shape[-2:], mode="bilinear"))
        expected = model.head(torch.cat(parts, dim=1))
        torch.testing.assert_close(model(images).logits, expected, rtol=1e-4, atol=1e-5)


def test_auxiliary_heads_read_the_last_feature_but_one(backbone):
    for method in ("fcn", "pspnet", "deeplabv3", "deeplabv3plus", "encnet"):
        model = build_model(method, backbone, 3, width=16, auxiliary_width=8, dropout=0.0).train()
        images = torch.rand(2, 3, 64, 64)
        (coarse,) = model(images).auxiliary
        torch.testing.assert_close(coarse, model.auxiliary(backbone(images)[-2]))
