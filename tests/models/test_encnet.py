"""Context encoding against the form that expands pixels by codewords by channels, in float64."""

import pytest
import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from segcore.backbones import build_backbone
from segcore.errors import InputError
from segcore.models import build_model
from segcore.models.encnet import gather_residuals


def slow_residuals(pixels, codes, smoothing):
    differences = pixels.mT[:, :, None] - codes  # b n m c
    weights = (smoothing * differences.square().sum(dim=-1)).softmax(dim=-1)
    return (weights[..., None] * differences).sum(dim=1)


def random_inputs(b=2, c=5, n=35, m=4):
    torch.manual_seed(0)
    pixels = torch.randn(b, c, n, dtype=torch.float64)
    codes, smoothing = torch.randn(m, c, dtype=torch.float64), -torch.rand(m, dtype=torch.float64)
    return [each.requires_grad_() for each in (pixels, codes, smoothing)]


def test_residuals_equal_the_expanded_form_forward_and_backward():
    inputs = random_inputs()
    ours, theirs = gather_residuals(*inputs), slow_residuals(*inputs)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)
    upstream = torch.randn_like(ours)
    gradients = torch.autograd.grad(ours, inputs, upstream)
    expected = torch.autograd.grad(theirs, inputs, upstream)
    for gradient, each in zip(gradients, expected, strict=True):
        torch.testing.assert_close(gradient, each, rtol=0, atol=1e-12)


class LargestTensor(TorchDispatchMode):
    numel = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for each in result if isinstance(result, tuple | list) else [result]:
            if isinstance(each, torch.Tensor):
                self.numel = max(self.numel, each.numel())
        return result


def test_nothing_is_larger_than_the_feature_forward_and_backward():
    inputs = random_inputs(b=2, c=16, n=100, m=8)
    with LargestTensor() as ours:
        gather_residuals(*inputs).square().sum().backward()
    with LargestTensor() as theirs:
        slow_residuals(*inputs).square().sum().backward()
    assert ours.numel == 2 * 16 * 100
    assert theirs.numel == 2 * 16 * 100 * 8


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_sums_are_float32_under_autocast(dtype):
    torch.manual_seed(0)
    pixels = 20 * torch.rand(1, 16, 8192).to(dtype)  # the sum is beyond what float16 can hold
    codes, smoothing = torch.rand(4, 16) / 8, -torch.rand(4) / 1000
    with torch.autocast("cpu", dtype):
        ours = gather_residuals(pixels, codes, smoothing)
    expected = slow_residuals(pixels.double(), codes.double(), smoothing.double())
    assert ours.dtype == torch.float32
    torch.testing.assert_close(ours.double(), expected, rtol=1e-4, atol=0)


@pytest.fixture
def backbone():
    torch.manual_seed(0)
    return build_backbone("resnet18", output_stride=8)


def block(sequence, x):
    convolution, norm, _ = sequence
    return F.relu(norm(convolution(x)))


def expected_logits(model, x):
    """From the published form: the mean over codes, ReLU over x + x gate."""
    encode = model.encode
    residuals = slow_residuals(block(encode.project, x).flatten(2), encode.codes, encode.smoothing)
    norm = encode.norm
    shape = [1, -1, 1]
    mean, var = norm.running_mean.view(shape), norm.running_var.view(shape)
    scaled = (residuals - mean) / (var + norm.eps).sqrt()
    scaled = scaled * norm.weight.view(shape) + norm.bias.view(shape)
    context = scaled.clamp(min=0).sum(dim=1) / len(encode.codes)
    gate = torch.sigmoid(context @ model.gate.weight.T + model.gate.bias)[:, :, None, None]
    return F.conv2d(F.relu(x + x * gate), model.classify[1].weight, model.classify[1].bias)


def trained(model):
    """As after training: codes of the feature's size, statistics of their own."""
    torch.nn.init.normal_(model.encode.codes)
    torch.nn.init.normal_(model.encode.norm.running_mean)
    torch.nn.init.uniform_(model.encode.norm.running_var, 0.5, 2)
    torch.nn.init.uniform_(model.encode.norm.weight, 0.5, 2)
    torch.nn.init.normal_(model.encode.norm.bias)
    return model.double().eval()


def test_the_whole_equals_the_published_form(backbone):
    torch.manual_seed(1)
    model = trained(build_model("encnet", backbone, 3, width=16, num_codes=4))
    images = torch.rand(2, 3, 65, 97, dtype=torch.float64)
    with torch.no_grad():
        x = block(model.enter, backbone(images)[-1])
        torch.testing.assert_close(model(images).logits, expected_logits(model, x))


def test_lateral_joins_last_then_finer_features(backbone):
    torch.manual_seed(1)
    model = trained(build_model("encnet", backbone, 3, width=16, num_codes=4, lateral=True))
    images = torch.rand(2, 3, 65, 97, dtype=torch.float64)
    with torch.no_grad():
        *_, c3, c4, c5 = backbone(images)
        sides = [block(each, c) for each, c in zip(model.lateral.reduce, (c3, c4), strict=True)]
        x = block(model.lateral.join, torch.cat([block(model.enter, c5), *sides], dim=1))
        torch.testing.assert_close(model(images).logits, expected_logits(model, x))


def test_lateral_brings_finer_features_to_the_size_of_the_last():
    model = build_model("encnet", build_backbone("resnet18"), 3, width=8, lateral=True).eval()
    assert model(torch.rand(1, 3, 97, 129)).logits.shape == (1, 3, 4, 5)


def test_lateral_says_that_it_reads_three_features():
    backbone = build_backbone("hrnet_w18_small_v2", pyramid="concat")
    with pytest.raises(InputError, match="lateral reads 3 features; the backbone has 2"):
        build_model("encnet", backbone, 3, width=8, lateral=True)


def test_codes_start_as_published():
    torch.manual_seed(0)
    backbone = build_backbone("resnet18", output_stride=8)
    encode = build_model("encnet", backbone, 3, width=128, num_codes=32).encode
    bound = (32 * 128) ** -0.5
    assert 0.99 * bound < encode.codes.abs().max() <= bound
    assert encode.codes.std().item() == pytest.approx(bound / 3**0.5, rel=0.05)
    assert -1 <= encode.smoothing.min() < -0.8
    assert -0.2 < encode.smoothing.max() <= 0


def test_presence_is_scored_in_training_and_teaches_the_codes(backbone):
    model = build_model("encnet", backbone, 3, width=16).train()
    prediction = model(torch.rand(2, 3, 64, 64))
    assert prediction.presence.shape == (2, 3)
    prediction.presence.square().sum().backward()
    assert model.encode.codes.grad.abs().max() > 0
    assert model.eval()(torch.rand(2, 3, 64, 64)).presence is None


def test_without_presence_one_layer_is_missing(backbone):
    full = build_model("encnet", backbone, 3, width=16).state_dict()
    model = build_model("encnet", backbone, 3, width=16, presence=False).train()
    assert set(full) - set(model.state_dict()) == {"presence.weight", "presence.bias"}
    assert model(torch.rand(2, 3, 64, 64)).presence is None


def test_one_image_trains(backbone):
    """BatchNorm is over codes here: one image has as many values as channels."""
    model = build_model("encnet", backbone, 3, width=16).train()
    assert model(torch.rand(1, 3, 64, 64)).logits.shape == (1, 3, 8, 8)
