"""Convolution blocks start with Kaiming's spread, whatever their groups, and keep the size."""

import pytest
import torch
import torch.nn.functional as F

from segcore.layers import conv_norm_relu, kaiming_conv, separable_conv_norm_relu


def count(module):
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.mark.parametrize(
    ("outputs", "kernel", "groups", "fan"),
    [(128, 3, 1, 128 * 9), (256, 1, 1, 256), (4096, 3, 4096, 9), (512, 3, 4, 128 * 9)],
)
def test_spread_follows_the_outputs_of_one_group(outputs, kernel, groups, fan):
    torch.manual_seed(0)
    inputs = 4096 if groups == 4096 else 64
    conv = kaiming_conv(inputs, outputs, kernel, groups=groups, bias=True)
    assert conv.weight.std().item() == pytest.approx((2 / fan) ** 0.5, rel=0.02)
    assert conv.bias.abs().max() == 0


def test_a_depthwise_convolution_keeps_the_size_of_its_signal():
    """After ReLU the mean square comes out as it went in (He et al., eq. 14)."""
    torch.manual_seed(0)
    x = torch.randn(1, 512, 32, 32)
    y = F.relu(kaiming_conv(512, 512, 3, groups=512)(x))[:, :, 1:-1, 1:-1]
    assert y.square().mean().item() == pytest.approx(1, rel=0.1)


def test_without_relu_negative_values_stay():
    torch.manual_seed(0)
    x = torch.randn(2, 3, 8, 8)
    block = conv_norm_relu(3, 4, relu=False)
    assert len(block) == 2
    assert block(x).min() < -0.5
    assert conv_norm_relu(3, 4)(x).min() == 0


@pytest.mark.parametrize(("size", "halved"), [(64, 32), (65, 33), (97, 49)])
@pytest.mark.parametrize("kernel", [3, 7])
def test_stride_two_halves_and_rounds_up(size, halved, kernel):
    block = conv_norm_relu(3, 4, kernel, stride=2)
    assert block(torch.rand(2, 3, size, size)).shape == (2, 4, halved, halved)


def test_separable_equals_one_convolution_with_the_product_of_its_kernels():
    torch.manual_seed(0)
    block = separable_conv_norm_relu(3, 5, dilation=2, inner_relu=False).double().eval()
    for norm in (block[0][1], block[1][1]):
        norm.eps = 0.0  # with its initial statistics then the identity
    x = torch.randn(2, 3, 9, 13, dtype=torch.float64)
    kernel = block[1][0].weight * block[0][0].weight.transpose(0, 1)
    expected = F.relu(F.conv2d(x, kernel, padding=2, dilation=2))
    torch.testing.assert_close(block(x), expected, rtol=0, atol=1e-12)


def test_separable_has_a_relu_inside_unless_told_otherwise():
    assert [len(each) for each in separable_conv_norm_relu(3, 5)] == [3, 3]
    assert [len(each) for each in separable_conv_norm_relu(3, 5, inner_relu=False)] == [2, 3]
    # JPU's: depthwise 1536 x 9, pointwise 1536 x 512, two BatchNorms.
    assert count(separable_conv_norm_relu(1536, 512, inner_relu=False)) == 804_352
