"""The atrous pyramid against single convolutions; counts by hand."""

import torch
import torch.nn.functional as F

from segcore.layers import AtrousPyramid, ImagePooling, atrous_classifier


def count(module):
    return sum(parameter.numel() for parameter in module.parameters())


def norm_relu(norm, x):
    return F.relu(F.batch_norm(x, norm.running_mean, norm.running_var, norm.weight, norm.bias))


def shaken(module):
    """In float64, with statistics that no two channels share."""
    torch.manual_seed(0)
    for each in module.modules():
        if isinstance(each, torch.nn.BatchNorm2d):
            torch.nn.init.normal_(each.running_mean)
            torch.nn.init.uniform_(each.running_var, 0.5, 2)
            torch.nn.init.uniform_(each.weight, 0.5, 2)
            torch.nn.init.normal_(each.bias)
    return module.double().eval()


def test_counts_of_mmsegmentation_s_pyramids():
    assert count(AtrousPyramid(2048, 512, [12, 24, 36])) == 1_049_600 + 3 * 9_438_208
    separable = AtrousPyramid(2048, 512, [12, 24, 36], separable=True)
    assert count(separable) == 1_049_600 + 3 * 1_072_128
    assert count(ImagePooling(2048, 512)) == 1_049_600
    assert separable.outputs == 2048


def test_each_branch_is_its_own_convolution_in_the_order_of_the_dilations():
    pyramid = shaken(AtrousPyramid(3, 4, [2, 5]))
    x = torch.randn(2, 3, 9, 13, dtype=torch.float64)
    parts = []
    for (conv, norm, _), spread in zip(pyramid.branches, (1, 2, 5), strict=True):
        padding = spread if conv.kernel_size == (3, 3) else 0
        y = F.conv2d(x, conv.weight, padding=padding, dilation=spread)
        parts.append(norm_relu(norm, y))
    expected = torch.cat(parts, dim=1)
    assert pyramid.branches[0][0].kernel_size == (1, 1)
    assert pyramid.outputs == 12
    torch.testing.assert_close(pyramid(x), expected, rtol=0, atol=1e-12)


def test_separable_leaves_the_single_pixel_branch_whole():
    pyramid = shaken(AtrousPyramid(3, 4, [2], separable=True))
    x = torch.randn(2, 3, 9, 13, dtype=torch.float64)
    (conv, norm, _), ((depth, depth_norm, _), (point, point_norm, _)) = pyramid.branches
    inner = F.conv2d(x, depth.weight, padding=2, dilation=2, groups=3)
    outer = norm_relu(point_norm, F.conv2d(norm_relu(depth_norm, inner), point.weight))
    expected = torch.cat([norm_relu(norm, F.conv2d(x, conv.weight)), outer], dim=1)
    torch.testing.assert_close(pyramid(x), expected, rtol=0, atol=1e-12)


def test_image_pooling_gives_every_pixel_the_projected_mean():
    pooling = shaken(ImagePooling(3, 4))
    x = torch.randn(2, 3, 9, 13, dtype=torch.float64)
    conv, norm, _ = pooling.project
    mean = torch.stack([each.flatten(1).mean(dim=1) for each in x])
    expected = norm_relu(norm, (mean @ conv.weight[:, :, 0, 0].T)[:, :, None, None])
    y = pooling(x)
    assert y.shape == (2, 4, 9, 13)
    torch.testing.assert_close(y, expected.expand_as(y), rtol=0, atol=1e-12)


def test_atrous_classifier_scores_near_zero_from_a_wide_field():
    torch.manual_seed(0)
    conv = atrous_classifier(2048, 19, 6)
    assert count(conv) == 2048 * 9 * 19 + 19
    assert abs(conv.weight.std().item() - 0.01) < 2e-4
    assert conv.bias.abs().max() == 0
    x = torch.zeros(1, 2048, 15, 15)
    x[:, :, 7, 7] = 1
    reached = conv(x)[0, 0].nonzero().tolist()
    assert reached == [[i, j] for i in (1, 7, 13) for j in (1, 7, 13)]
