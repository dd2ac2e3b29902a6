"""Where 3x3 convolutions look: published patterns, and that dilation computes the same values."""

import pytest
import torch
from torch import nn

from segcore.backbones import build_backbone
from segcore.errors import InputError

NARROW = {
    "resnet18": {"channels": (4, 8, 16, 32)},
    "resnet50": {"channels": (4, 8, 16, 32)},
    "mobilenetv2_035": {},
    "wide_resnet38_a": {"width": 2},
    "wide_resnet38_a1": {"width": 2},
    "wide_resnet38_a2": {"width": 2},
}


def pattern(module):
    """(stride, dilation) of each 3x3 convolution, whose padding must keep the size."""
    convs = [each for each in module.modules() if isinstance(each, nn.Conv2d)]
    wide = [each for each in convs if each.kernel_size == (3, 3)]
    assert all(each.padding == each.dilation for each in wide)
    return [(each.stride[0], each.dilation[0]) for each in wide]


def build(name, output_stride, **options):
    with torch.device("meta"):
        return build_backbone(name, output_stride=output_stride, **options).body


RESNET50 = {
    (8, ""): ([(1, 1)] + [(1, 2)] * 5, [(1, 2), (1, 4), (1, 4)]),
    (16, ""): ([(2, 1)] + [(1, 1)] * 5, [(1, 1), (1, 2), (1, 2)]),
    (32, ""): ([(2, 1)] + [(1, 1)] * 5, [(2, 1), (1, 1), (1, 1)]),
    (8, "multi_grid"): ([(1, 1)] + [(1, 2)] * 5, [(1, 4), (1, 8), (1, 16)]),
    (16, "multi_grid"): ([(2, 1)] + [(1, 1)] * 5, [(1, 2), (1, 4), (1, 8)]),
    # OCNet.pytorch and CCNet
    (8, "not contracted"): ([(1, 2)] * 6, [(1, 4)] * 3),
    # MMSegmentation's R-101-D16-mg124 and its trunk under JPU
    (16, "mmseg"): ([(2, 1)] + [(1, 1)] * 5, [(1, 1), (1, 2), (1, 4)]),
    (32, "mmseg"): ([(2, 1)] + [(1, 2)] * 5, [(2, 2), (1, 4), (1, 4)]),
}
OPTIONS = {
    (8, "multi_grid"): {"multi_grid": [1, 2, 4]},
    (16, "multi_grid"): {"multi_grid": [1, 2, 4]},
    (8, "not contracted"): {"contract_dilation": False},
    (16, "mmseg"): {"dilations": [1, 1, 1, 1], "multi_grid": [1, 2, 4]},
    (32, "mmseg"): {"dilations": [1, 1, 2, 4]},
}


@pytest.mark.parametrize("case", RESNET50, ids=str)
@pytest.mark.parametrize("name", ["resnet50c", "resnet50s"])
def test_resnet50(name, case):
    body = build(name, case[0], **OPTIONS.get(case, {}))
    assert pattern(body["conv1"]) == [(2, 1), (1, 1), (1, 1)]
    assert pattern(body["layer1"]) == [(1, 1)] * 3
    assert pattern(body["layer2"]) == [(2, 1)] + [(1, 1)] * 3
    assert (pattern(body["layer3"]), pattern(body["layer4"])) == RESNET50[case]


@pytest.mark.parametrize(
    ("options", "third", "fourth"),
    [
        ({}, [(1, 1), (1, 2), (1, 2), (1, 2)], [(1, 2), (1, 4), (1, 4), (1, 4)]),
        (
            {"dilate_first_conv_only": True},
            [(1, 1), (1, 1), (1, 2), (1, 1)],
            [(1, 2), (1, 1), (1, 4), (1, 1)],
        ),
        (
            {"multi_grid": [1, 2]},
            [(1, 1), (1, 2), (1, 2), (1, 2)],
            [(1, 4), (1, 4), (1, 8), (1, 8)],
        ),
    ],
)
def test_resnet18_at_stride_eight(options, third, fourth):
    body = build("resnet18", 8, **options)
    assert pattern(body["layer2"]) == [(2, 1), (1, 1), (1, 1), (1, 1)]
    assert pattern(body["layer3"]) == third
    assert pattern(body["layer4"]) == fourth


@pytest.mark.parametrize(
    ("first_only", "dilations"),
    [
        (False, [[1, 2, 2, 2], [2, 2, 2], [2, 4, 4], [4]]),
        (True, [[2, 1, 1, 1], [2, 1, 1], [4, 1, 1], [4]]),
    ],
)
def test_mobilenet_at_stride_eight(first_only, dilations):
    body = build("mobilenetv2_100", 8, dilate_first_block_only=first_only)
    assert [pattern(stage) for stage in body.blocks[:3]] == [
        [(1, 1)], [(2, 1), (1, 1)], [(2, 1), (1, 1), (1, 1)],
    ]  # fmt: skip
    got = [pattern(stage) for stage in body.blocks[3:]]
    assert got == [[(1, each) for each in stage] for stage in dilations]


@pytest.mark.parametrize(("output_stride", "third", "fourth"), [(8, 2, 4), (16, 1, 2), (32, 1, 1)])
def test_densenet(output_stride, third, fourth):
    body = build("densenet121", output_stride)
    blocks = [pattern(body[f"features_denseblock{i}"]) for i in range(1, 5)]
    dilations = zip((6, 12, 24, 16), (1, 1, third, fourth), strict=True)
    assert blocks == [[(1, dilation)] * layers for layers, dilation in dilations]
    pools = [body[f"features_transition{i}"].pool for i in range(1, 4)]
    pooled = [isinstance(pool, nn.AvgPool2d) for pool in pools]
    assert pooled == [True, third == 1, fourth == 1]


@pytest.mark.parametrize(("output_stride", "third"), [(8, 2), (16, 1)])
def test_densenet_without_its_last_block(output_stride, third):
    with torch.device("meta"):
        options = {"out_indices": [0, 1, 2, 3], "output_stride": output_stride}
        backbone = build_backbone("densenet121", **options)
    assert backbone.strides == (4, 8, output_stride)
    assert set(pattern(backbone.body["features_denseblock3"])) == {(1, third)}


XCEPTION = {
    # The third block of the entry flow, the middle flow, both blocks of the exit flow.
    8: ((1, 1), (1, 2), (1, 2), (1, 4)),
    16: ((2, 1), (1, 1), (1, 1), (1, 2)),
    32: ((2, 1), (1, 1), (2, 1), (1, 1)),
}


@pytest.mark.parametrize("output_stride", XCEPTION)
def test_xception(output_stride):
    entry, middle, leaving, last = XCEPTION[output_stride]
    found = pattern(build("xception65", output_stride))
    stem, blocks = found[:2], [found[i : i + 3] for i in range(2, len(found), 3)]
    assert stem == [(2, 1), (1, 1)]
    # A block has its stride in its third convolution, its dilation in all.
    expected = [(2, 1), (2, 1), entry, *[middle] * 16, leaving, last]
    assert blocks == [[(1, dilation)] * 2 + [(stride, dilation)] for stride, dilation in expected]


def randomise(model):
    torch.manual_seed(0)
    for each in model.modules():
        if isinstance(each, nn.BatchNorm2d):
            nn.init.uniform_(each.weight, 0.5, 1.0)
            nn.init.uniform_(each.bias, -0.2, 0.2)
            nn.init.uniform_(each.running_mean, -0.2, 0.2)
            nn.init.uniform_(each.running_var, 0.5, 1.5)
    return model.double().eval()


@pytest.mark.parametrize("name", NARROW)
def test_dilation_computes_the_same_values_at_more_places(name):
    coarse = randomise(build_backbone(name, **NARROW[name]))
    images = torch.randn(1, 3, 97, 129, dtype=torch.float64)
    with torch.no_grad():
        expected = coarse(images)
        for output_stride in (8, 16):
            fine = build_backbone(name, output_stride=output_stride, **NARROW[name])
            fine.double().eval().load_state_dict(coarse.state_dict())
            assert fine.strides[-1] == output_stride
            features = fine(images)
            for i, (got, want) in enumerate(zip(features, expected, strict=True)):
                step = coarse.strides[i] // fine.strides[i]
                assert got.shape[-1] == -(-129 // fine.strides[i])
                assert want.abs().max() > 0.1
                torch.testing.assert_close(got[..., ::step, ::step], want, rtol=1e-9, atol=1e-9)


def test_multi_grid_of_other_residual_networks():
    for name in ("ecaresnet50d", "resnext50_32x4d", "res2net50_26w_4s"):
        body = build(name, 8, multi_grid=[1, 2, 4])
        reached = [{dilation for _, dilation in pattern(block)} for block in body["layer4"]]
        assert reached == [{4}, {8}, {16}]


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("resnet18", {"multi_grid": [1, 2, 4]}, "2 positive whole numbers, one per block of lay"),
        ("resnet50", {"multi_grid": [1, 0, 4]}, r"3 positive.*not \[1, 0, 4\]"),
        ("resnet50", {"dilations": [1, 2]}, r"dilations must be 4 positive.*one per stage"),
        ("mobilenetv2_100", {"multi_grid": [1, 2, 4]}, "mobilenetv2_100 has no option 'multi_gr"),
        ("hrnet_w18", {"multi_grid": [1, 2, 4]}, "hrnet_w18 has no option 'multi_grid'.*ResNet"),
        ("densenet121", {"multi_grid": [1, 2]}, "densenet121 has no option 'multi_grid'"),
        ("wide_resnet38_a1", {"multi_grid": [1]}, "wide_resnet38_a1 has no option 'multi_grid'"),
        ("resnet50", {"dilate_first_block_only": True}, "resnet50 has no option.*MobileNetV2"),
        ("resnet50", {"dilate_first_conv_only": True}, "two 3x3 convolutions.*leave it out"),
        ("resnet50", {"multi_grids": [1, 2, 4]}, "no option 'multi_grids'; did you mean 'multi_g"),
    ],
)
def test_refusals_say_what_would_work(name, options, message):
    with torch.device("meta"), pytest.raises(InputError, match=message):
        build_backbone(name, **options)
