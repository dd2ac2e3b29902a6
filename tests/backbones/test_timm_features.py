"""Backbones: counts, shapes, dilations, HRNet's exchange, and what wrong requests are told."""

import json
from pathlib import Path

import pytest
import timm
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from timm.models.hrnet import BasicBlock, HighResolutionModule
from torch import nn

from segcore.backbones import build_backbone
from segcore.backbones.hrnet_fusion import BilinearFusion
from segcore.errors import InputError

TRUNKS = json.loads((Path(__file__).parent / "parameters.json").read_text())


@pytest.mark.parametrize("row", TRUNKS, ids=lambda row: f"{row['backbone']}-{row['parameters']}")
def test_trunk_has_the_published_count(row):
    with torch.device("meta"):
        backbone = build_backbone(row["backbone"], **row["options"])
    assert sum(each.numel() for each in backbone.parameters()) == row["parameters"]


@pytest.mark.parametrize(
    ("name", "options", "channels", "strides"),
    [
        ("resnet18", {}, (64, 128, 256, 512), (4, 8, 16, 32)),
        ("resnet18", {"output_stride": 8}, (64, 128, 256, 512), (4, 8, 8, 8)),
        ("mobilenetv2_100", {"output_stride": 16}, (24, 32, 96, 320), (4, 8, 16, 16)),
        ("hrnet_w18_small_v2", {}, (18, 36, 72, 144), (4, 8, 16, 32)),
        ("hrnet_w18_small_v2", {"pyramid": "concat"}, (270, 270), (4, 4)),
        ("convnext_atto", {"output_stride": 16}, (40, 80, 160, 320), (4, 8, 16, 16)),
    ],
)
def test_features_are_what_is_declared_at_any_size(name, options, channels, strides):
    backbone = build_backbone(name, **options).eval()
    assert backbone.channels == channels
    assert backbone.strides == strides
    for height, width in ((64, 96), (97, 129), (90, 120)):
        with torch.no_grad():
            features = backbone(torch.rand(1, 3, height, width))
        for feature, channel, stride in zip(features, channels, strides, strict=True):
            # Networks with a patchifying stem round down, those with padding round up.
            least = 4 * (stride // 4)
            assert feature.shape[1] == channel
            assert abs(feature.shape[2] - height / least) < 1
            assert abs(feature.shape[3] - width / least) < 1


def test_channels_last_networks_give_channels_first():
    name = "swin_tiny_patch4_window7_224"
    backbone = build_backbone(name, depths=(1, 1, 1, 1), embed_dim=24).eval()
    features = backbone(torch.rand(1, 3, 224, 224))
    assert [tuple(each.shape[1:]) for each in features] == [
        (24, 56, 56), (48, 28, 28), (96, 14, 14), (192, 7, 7),
    ]  # fmt: skip


def test_concatenation_joins_all_branches_at_the_finest_size():
    torch.manual_seed(0)
    backbone = build_backbone("hrnet_w18_small_v2", pyramid="concat").eval()
    images = torch.rand(1, 3, 65, 97)
    with torch.no_grad():
        branches = backbone.body(images)
        joined, again = backbone(images)
    assert joined is again
    parts = joined.split([18, 36, 72, 144], dim=1)
    torch.testing.assert_close(parts[0], branches[0])
    for part, branch in zip(parts[1:], branches[1:], strict=True):
        expected = F.interpolate(branch, (17, 25), mode="bilinear", align_corners=False)
        torch.testing.assert_close(part, expected)


def hrnet_module():
    torch.manual_seed(0)
    module = HighResolutionModule(3, BasicBlock, (1, 1, 1), [4, 8, 16], (4, 8, 16), "SUM")
    for each in module.modules():  # else BatchNorm in eval mode is the identity
        if isinstance(each, nn.BatchNorm2d):
            nn.init.uniform_(each.weight, 0.5, 1.5)
            nn.init.uniform_(each.running_mean, -1, 1)
    return module.double().eval()


@pytest.mark.parametrize("by_factor", [False, True])
def test_exchange_equals_the_formula_at_odd_sizes(by_factor):
    module = hrnet_module()
    fused = BilinearFusion(module, enlarge_by_factor=by_factor)
    sizes = [(9, 13), (5, 7), (3, 4)]
    inputs = [
        torch.randn(2, channels, *size, dtype=torch.float64)
        for channels, size in zip((4, 8, 16), sizes, strict=True)
    ]
    with torch.no_grad():
        got = fused([*inputs])
        x = [branch(each) for branch, each in zip(module.branches, inputs, strict=True)]
        for i, size in enumerate(sizes):
            total = x[i].clone()
            for j in range(3):
                layer = module.fuse_layers[i][j]
                if j > i:
                    convolution, norm, _ = layer
                    small = norm(convolution(x[j]))
                    if by_factor:  # MMSegmentation's, in two steps
                        factor = 2 ** (j - i)
                        small = F.interpolate(small, scale_factor=factor, mode="bilinear")
                    total += F.interpolate(small, size, mode="bilinear", align_corners=False)
                elif j < i:
                    total += layer(x[j])
            torch.testing.assert_close(got[i], total.relu(), rtol=0, atol=1e-12)


def test_exchange_keeps_names_so_that_weights_load():
    name = "hrnet_w18_small_v2"
    theirs = timm.create_model(name, features_only=True, feature_location="").state_dict()
    assert set(build_backbone(name).body.state_dict()) == set(theirs)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("resnet5oc", {}, "no backbone 'resnet5oc'; did you mean 'resnet50c'"),
        ("zzzz", {}, r"list_backbones\(\)"),
        ("resnet18", {"output_stride": 7}, "at output stride 7; it can at 8, 16, 32"),
        ("hrnet_w18", {"output_stride": 8}, "at output stride 8; it can at 32"),
        ("densenet121", {"output_stride": 4}, "at output stride 4; it can at 8, 16, 32"),
        ("swin_tiny_patch4_window7_224", {"output_stride": 8}, r"stride out \(its own is 32\)"),
        ("resnet18", {"stem_wdth": 3}, "no option 'stem_wdth'; did you mean 'stem_width'"),
        ("mobilenetv2_100", {"no_such_thing": 3}, "no option 'no_such_thing'"),
        ("resnet18", {"enlarge_by_factor": True}, "no option 'enlarge_by_factor'.*HRNet"),
        ("hrnet_w18", {"drop_rat": 3}, "no option 'drop_rat'; did you mean 'drop_rate'"),
        ("resnet18", {"stem_type": 3}, r"resnet18 with {.stem_type.: 3} cannot be built .*choose"),
        ("resnet18", {"layers": (1, 1)}, "resnet18 with .* cannot be built .* other options"),
        ("resnet18", {"pyramid": "concatt"}, "no pyramid 'concatt'; did you mean 'concat'"),
    ],
)
def test_refusals_say_what_would_work(name, options, message):
    with pytest.raises(InputError, match=message):
        build_backbone(name, **options)


@pytest.mark.parametrize(
    ("name", "options"),
    [("resnet18", {"channels": (4, 8, 16, 32)}), ("densenet121", {"growth_rate": 4})],
)
def test_pretrained_weights_come_from_a_folder(name, options, tmp_path):
    torch.manual_seed(1)
    source = timm.create_model(name, **options).state_dict()
    save_file(source, tmp_path / f"{name}.safetensors")
    sources = {"pretrained": True, "weights_folder": tmp_path}
    backbone = build_backbone(name, output_stride=8, **sources, **options)
    loaded = backbone.body.state_dict()
    assert len(loaded) > 100
    for key, value in loaded.items():  # timm's extractor writes features_conv0 for features.conv0
        assert torch.equal(value, source[key.replace("features_", "features.")])


def test_pretrained_weights_that_cannot_be_had(tmp_path, monkeypatch):
    with pytest.raises(InputError, match=r"holds no pretrained weights.*resnet18\.safetensors"):
        build_backbone("resnet18", pretrained=True, weights_folder=tmp_path)

    def no_network(*_, **__):
        raise ConnectionError("no route to host")

    monkeypatch.setattr("timm.models._builder.load_state_dict_from_hf", no_network)
    with pytest.raises(InputError, match=r"ConnectionError: no route to host.*hub cache"):
        build_backbone("resnet18", pretrained=True)


def test_a_variant_s_weights_come_from_a_folder_alone(tmp_path):
    options = {"layers": (1, 1, 1, 1), "channels": (4, 8, 16, 32)}
    source = build_backbone("resnet269s", **options)
    with pytest.raises(InputError, match=r"not published.*resnet269s\.safetensors"):
        build_backbone("resnet269s", pretrained=True)
    save_file(source.body.state_dict(), tmp_path / "resnet269s.safetensors")
    loaded = build_backbone("resnet269s", pretrained=True, weights_folder=tmp_path, **options)
    theirs = source.body.state_dict()
    assert all(torch.equal(each, theirs[key]) for key, each in loaded.body.state_dict().items())


@pytest.mark.long
def test_a_network_without_published_weights():
    with pytest.raises(InputError, match="pretrained weights for backbone seresnet269d cannot"):
        build_backbone("seresnet269d", pretrained=True)


@pytest.mark.parametrize(
    ("name", "remedies"),
    [
        ("vit_tiny_patch16_224", r"img_size: \[64, 96\].*, or for any \(dynamic_img_size: true"),
        ("swin_tiny_patch4_window7_224", r"img_size: \[64, 96\].*dynamic_img_size: true"),
        ("coat_tiny", "give images of another size"),
    ],
)
def test_images_of_a_size_that_a_network_does_not_take(name, remedies):
    with torch.device("meta"):
        backbone = build_backbone(name).eval()
        with pytest.raises(InputError, match=f"{name} does not take images of 64x96.*{remedies}"):
            backbone(torch.rand(1, 3, 64, 96))
        backbone(torch.rand(1, 3, 224, 224))


@pytest.mark.parametrize("option", [{"img_size": [64, 96]}, {"dynamic_img_size": True}])
def test_its_remedies_work(option):
    with torch.device("meta"):
        backbone = build_backbone("vit_tiny_patch16_224", **option).eval()
        assert backbone(torch.rand(1, 3, 64, 96))[-1].shape[-2:] == (4, 6)


def test_errors_that_are_not_about_sizes_pass():
    backbone = build_backbone("resnet18", channels=(4, 8, 16, 32)).eval()
    with pytest.raises(RuntimeError, match="should be the same"):
        backbone.double()(torch.rand(1, 3, 64, 96))
