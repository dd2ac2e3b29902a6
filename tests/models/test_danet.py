"""Both of DANet's attentions against their sums written out, in float64, forward and backward."""

import pytest
import torch

from segcore.backbones import build_backbone
from segcore.models import build_model
from segcore.models.danet import ChannelAttention, PositionAttention, mix_channels

C, H, W = 6, 3, 5


def slow_position(built, x):
    """Pixel by pixel, unscaled (equations 1 and 2)."""
    images = []
    for image in x:
        pixels = image.flatten(1).T
        query, key, value = (
            [each.weight[:, :, 0, 0] @ pixel + each.bias for pixel in pixels]
            for each in (built.query, built.key, built.value)
        )
        rows = []
        for q in query:
            likeness = [(q * k).sum().exp() for k in key]
            mixed = sum(s / sum(likeness) * v for s, v in zip(likeness, value, strict=True))
            rows.append(mixed)
        images.append(torch.stack(rows).T.unflatten(1, (H, W)))
    return x + built.gain * torch.stack(images)


def slow_channel(built, x):
    """Channel by channel, similarities subtracted from their maximum as the published code does."""
    images = []
    for image in x:
        rows = []
        for channel in image:
            products = torch.stack([(channel * other).sum() for other in image])
            likeness = (products.max() - products).exp()
            weights = likeness / likeness.sum()
            rows.append(sum(w * other for w, other in zip(weights, image, strict=True)))
        images.append(torch.stack(rows))
    return x + built.gain * torch.stack(images)


def position():
    torch.manual_seed(0)
    return PositionAttention(C, 4)


def channel():
    return ChannelAttention()


FORMS = [(position, slow_position), (channel, slow_channel)]


@pytest.mark.parametrize(("build", "slow"), FORMS)
def test_equals_the_sums_written_out(build, slow):
    built = build().double()
    torch.nn.init.constant_(built.gain, 0.7)
    x = torch.randn(2, C, H, W, dtype=torch.float64, requires_grad=True)
    ours, theirs = built(x), slow(built, x)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-11)
    upstream = torch.randn_like(ours)
    wanted = (x, *built.parameters())
    # A key's bias adds the same to all similarities of a query: its gradient is zero.
    gradients = torch.autograd.grad(ours, wanted, upstream)
    expected = torch.autograd.grad(theirs, wanted, upstream)
    for gradient, each in zip(gradients, expected, strict=True):
        torch.testing.assert_close(gradient, each, rtol=0, atol=1e-11)


@pytest.mark.parametrize("build", [position, channel])
def test_attention_is_the_identity_at_first_and_keeps_bfloat16(build):
    x = torch.randn(2, C, H, W)
    assert torch.equal(build()(x), x)
    rounded = x.bfloat16()
    assert torch.equal(build().bfloat16()(rounded), rounded)
    with torch.autocast("cpu", torch.bfloat16):
        assert build()(rounded).dtype == torch.bfloat16


def test_channels_unlike_a_channel_weigh_most():
    x = torch.zeros(1, 3, 1, 4)
    x[0, 0, 0, 0], x[0, 1, 0, 1], x[0, 2, 0, 0] = 10.0, 10.0, 10.0
    built = ChannelAttention()
    torch.nn.init.ones_(built.gain)
    # Channels 0 and 2 are alike and not like 1: both are given channel 1, which gets their mean.
    given = (built(x) - x)[0, :, 0]
    expected = torch.tensor([[0, 10, 0, 0], [10, 0, 0, 0], [0, 10, 0, 0]], dtype=torch.float32)
    torch.testing.assert_close(given, expected)


def test_counts_of_the_published_attentions():
    assert sum(each.numel() for each in PositionAttention(512, 64).parameters()) == 328_321
    assert sum(each.numel() for each in ChannelAttention().parameters()) == 1


@pytest.mark.parametrize("auxiliary", [True, False])
def test_training_supervises_both_branches(auxiliary):
    torch.manual_seed(0)
    backbone = build_backbone("resnet18", output_stride=8)
    model = build_model(
        "danet", backbone, 3, width=16, key_width=2, dropout=0.0, auxiliary=auxiliary
    ).train()
    images = torch.rand(2, 3, 65, 97)
    prediction = model(images)
    features = model.backbone(images)
    by_position, by_channel = model.position(features[-1]), model.channel(features[-1])
    expected = [model.classify_position(by_position), model.classify_channel(by_channel)]
    if auxiliary:
        expected.append(model.auxiliary(features[-2]))
    torch.testing.assert_close(prediction.logits, model.classify(by_position + by_channel))
    assert len(prediction.auxiliary) == len(expected)
    for ours, theirs in zip(prediction.auxiliary, expected, strict=True):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_channels_of_large_maps_keep_their_weights_in_low_precision(dtype):
    torch.manual_seed(0)
    # Similarities of some hundred thousand, of which float16 knows none and bfloat16 few.
    x = (16 + torch.randint(2, (1, 4, 64, 64))).to(dtype)
    x[0, 3] = x[0, 2]
    expected = mix_channels(x.double())
    assert expected.isfinite().all()
    torch.testing.assert_close(mix_channels(x).double(), expected, rtol=1e-2, atol=0)
    with torch.autocast("cpu", dtype):
        found = mix_channels(x.float())
    assert found.dtype == dtype
    torch.testing.assert_close(found.double(), expected, rtol=1e-2, atol=0)
