"""How HRNet's coarser branches reach the size of finer ones: two published forms."""

import pytest
import torch
import torch.nn.functional as F

from segcore.backbones import build_backbone
from segcore.errors import InputError


def build(**form):
    torch.manual_seed(0)
    return build_backbone("hrnet_w18_small_v2", **form).eval()


def test_both_forms_agree_where_every_map_divides():
    images = torch.randn(1, 3, 64, 96)
    with torch.inference_mode():
        pairs = zip(build()(images), build(enlarge_by_factor=True)(images), strict=True)
        assert all(torch.equal(one, other) for one, other in pairs)


def test_by_factor_is_torchs_upsample_and_then_a_resize():
    fusion = build(enlarge_by_factor=True).body.stage4[-1]
    sizes = (21, 13), (11, 7), (6, 4), (3, 2)
    inputs = [torch.randn(1, 18 << i, *size) for i, size in enumerate(sizes)]
    with torch.inference_mode():
        outputs = [branch(x) for branch, x in zip(fusion.branches, inputs, strict=True)]
        expected = outputs[0]
        for j, output in enumerate(outputs[1:], start=1):
            layer = fusion.fuse_layers[0][j]
            upsample = torch.nn.Upsample(scale_factor=2**j, mode="bilinear", align_corners=False)
            large = upsample(layer[1](layer[0](output)))
            expected = expected + F.interpolate(large, sizes[0], mode="bilinear")
        torch.testing.assert_close(fusion(inputs)[0], expected.relu(), rtol=0, atol=1e-5)
        direct = build().body.stage4[-1](inputs)[0]
        assert (direct - expected.relu()).abs().max() > 1e-2


def test_only_hrnet_has_this_form():
    with pytest.raises(InputError, match="enlarge_by_factor is for HRNet; leave it out"):
        build_backbone("resnet18", enlarge_by_factor=True)
