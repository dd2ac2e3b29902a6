"""The global context block against the paper's equation 5 written out, in float64."""

import pytest
import torch

from segcore.backbones import build_backbone
from segcore.errors import InputError
from segcore.models import build_model
from segcore.models.gcnet import GlobalContext, gather_context

FUSIONS = [("add",), ("multiply",), ("add", "multiply"), ("multiply", "add")]


def bottleneck(sequence, vector):
    """W2 ReLU(LN(W1 v))."""
    first, norm, _, last = sequence
    x = first.weight[:, :, 0, 0] @ vector + first.bias
    x = (x - x.mean()) / (x.var(unbiased=False) + norm.eps).sqrt()
    x = (x * norm.weight[:, 0, 0] + norm.bias[:, 0, 0]).clamp(min=0)
    return last.weight[:, :, 0, 0] @ x + last.bias


def slow(built, x, fusion):
    images = []
    for image in x:
        pixels = image.flatten(1)
        scores = [
            (built.attention.weight[0, :, 0, 0] @ pixel + built.attention.bias[0]).exp()
            for pixel in pixels.T
        ]
        context = sum(s / sum(scores) * pixel for s, pixel in zip(scores, pixels.T, strict=True))
        gate = shift = None
        if "multiply" in fusion:
            gate = 1 / (1 + (-bottleneck(built.transforms["multiply"], context)).exp())
        if "add" in fusion:
            shift = bottleneck(built.transforms["add"], context)
        columns = []
        for pixel in pixels.T:
            gated = pixel if gate is None else pixel * gate
            columns.append(gated if shift is None else gated + shift)
        images.append(torch.stack(columns).T.unflatten(1, image.shape[1:]))
    return torch.stack(images)


@pytest.mark.parametrize("fusion", FUSIONS)
def test_equals_the_equation(fusion):
    torch.manual_seed(0)
    built = GlobalContext(6, 4, fusion).double()
    for parameter in built.parameters():
        torch.nn.init.normal_(parameter)
    x = torch.randn(2, 6, 3, 5, dtype=torch.float64, requires_grad=True)
    ours, theirs = built(x), slow(built, x, fusion)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-11)
    upstream = torch.randn_like(ours)
    wanted = (x, *built.parameters())
    gradients = torch.autograd.grad(ours, wanted, upstream)
    expected = torch.autograd.grad(theirs, wanted, upstream)
    for gradient, each in zip(gradients, expected, strict=True):
        torch.testing.assert_close(gradient, each, rtol=0, atol=1e-11)


def test_context_is_a_mean_over_pixels():
    scores = torch.randn(2, 1, 4, 5)
    torch.testing.assert_close(
        gather_context(torch.ones(2, 3, 4, 5), scores), torch.ones(2, 3, 1, 1)
    )
    # One pixel with all the weight is the whole of the context.
    scores[:, :, 1, 2] = 100.0
    x = torch.randn(2, 3, 4, 5)
    torch.testing.assert_close(gather_context(x, scores)[:, :, 0, 0], x[:, :, 1, 2])


def test_the_block_is_the_identity_at_first():
    x = torch.randn(2, 8, 3, 5)
    assert torch.equal(GlobalContext(8, 2, ("add",))(x), x)
    # A gate that starts at sigmoid(0) halves.
    assert torch.equal(GlobalContext(8, 2, ("multiply",))(x), x / 2)


def test_count_of_the_published_block():
    assert sum(each.numel() for each in GlobalContext(512, 128, ("add",)).parameters()) == 132_481


def test_ratio_is_the_bottleneck_s():
    backbone = build_backbone("resnet18", output_stride=8)
    model = build_model("gcnet", backbone, 3, width=48, ratio=1 / 16, fusion=["multiply"])
    assert model.head.context.transforms["multiply"][0].weight.shape == (3, 48, 1, 1)
    assert list(model.head.context.transforms) == ["multiply"]


@pytest.mark.parametrize("fusion", ["add", [], ["add", "subtract"]])
def test_wrong_fusion_is_refused(fusion):
    backbone = build_backbone("resnet18", output_stride=8)
    with pytest.raises(InputError, match="fusion must list add, multiply or both"):
        build_model("gcnet", backbone, 3, fusion=fusion)


def test_a_bottleneck_without_channels_is_refused():
    backbone = build_backbone("resnet18", output_stride=8)
    with pytest.raises(InputError, match=r"ratio 0\.01 of width 32 leaves .* no channel"):
        build_model("gcnet", backbone, 3, width=32, ratio=0.01)
