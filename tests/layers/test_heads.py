"""Heads start as published: small class scores, Kaiming elsewhere; counts by hand."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from segcore.layers import ContextHead, auxiliary_head, classifier, conv_norm_relu


def count(module):
    return sum(parameter.numel() for parameter in module.parameters())


def test_counts_of_the_standard_auxiliary_head():
    assert count(auxiliary_head(1024, 19)) == 2_364_691
    assert count(auxiliary_head(1024, 19, width=512, bias=True)) == 4_729_875
    assert count(auxiliary_head(1024, 19, width=512)) == 4_729_363


def test_initial_spread():
    torch.manual_seed(0)
    scores = classifier(512, 100)[1]
    assert scores.weight.std().item() == pytest.approx(0.01, rel=0.02)
    assert scores.bias.abs().max() == 0
    conv = conv_norm_relu(64, 128, 3)[0]
    assert conv.weight.std().item() == pytest.approx((2 / (128 * 9)) ** 0.5, rel=0.02)


@pytest.mark.parametrize(("kernel", "dilation"), [(1, 1), (3, 1), (3, 6), (5, 2)])
def test_convolution_keeps_the_size(kernel, dilation):
    block = conv_norm_relu(3, 4, kernel, dilation=dilation)
    assert block(torch.rand(2, 3, 9, 13)).shape == (2, 4, 9, 13)


def test_dropout_takes_whole_channels():
    torch.manual_seed(0)
    dropped = classifier(64, 5, dropout=0.5)[0](torch.ones(1, 64, 4, 4)).flatten(2)[0]
    assert set(dropped.mean(dim=1).tolist()) == {0.0, 2.0}
    assert dropped.std(dim=1).max() == 0


def test_count_of_the_context_frame():
    # MMSegmentation's FCN head with two convolutions, 2048 channels in and 512 wide.
    head = ContextHead(2048, 19, nn.Identity(), width=512, dropout=0.1)
    assert count(head) == 11_798_528 + 11_797_504 + 9_747


def test_context_stands_between_two_convolutions_whose_result_joins_the_feature():
    torch.manual_seed(0)
    context = nn.Conv2d(4, 4, 1)
    head = ContextHead(6, 3, context, width=4, dropout=0.0).double().eval()
    feature = torch.randn(2, 6, 5, 7, dtype=torch.float64)

    def block(sequence, x):
        return F.relu(sequence[1](F.conv2d(x, sequence[0].weight, padding=1)))

    x = block(head.leave, context(block(head.enter, feature)))
    x = block(head.join, torch.cat([feature, x], dim=1))
    expected = F.conv2d(x, head.classify[1].weight, head.classify[1].bias)
    torch.testing.assert_close(head(feature), expected, rtol=0, atol=1e-12)
