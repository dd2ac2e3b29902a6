"""Block-wise attention against the explicit matrix: values, gradients, memory, and compilation."""

import os
import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F
from jaxtyping import config
from torch.nn.attention import SDPBackend, sdpa_kernel

from segcore.layers import attend, attention

SHAPES = [(4, 4, 13, 13), (4, 7, 13, 5), (7, 4, 5, 13), (1, 1, 1, 1)]
"""Widths of queries and values, numbers of queries and keys."""


def explicit(query, key, value, scale):
    similarity = torch.einsum("bdn,bdm->bnm", query, key) * scale
    return torch.einsum("bem,bnm->ben", value, similarity.softmax(dim=-1))


def random(shape, dtype=torch.float64):
    torch.manual_seed(0)
    d, e, n, m = shape
    sizes = ((2, d, n), (2, d, m), (2, e, m))
    return tuple(torch.randn(size, dtype=dtype, requires_grad=True) for size in sizes)


@pytest.mark.parametrize("block", [1, 50, 1 << 22])
@pytest.mark.parametrize("scale", [None, 1.0])
@pytest.mark.parametrize("shape", SHAPES)
def test_equals_the_explicit_form_forward_and_backward(shape, scale, block, monkeypatch):
    monkeypatch.setattr(attention, "_BLOCK", block)
    inputs = random(shape)
    ours = attend(*inputs, scale=scale)
    theirs = explicit(*inputs, shape[0] ** -0.5 if scale is None else scale)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)
    upstream = torch.randn_like(ours)
    gradients = torch.autograd.grad(ours, inputs, upstream)
    expected = torch.autograd.grad(theirs, inputs, upstream)
    for gradient, each in zip(gradients, expected, strict=True):
        torch.testing.assert_close(gradient, each, rtol=0, atol=1e-12)


def test_gradients_equal_difference_quotients(monkeypatch):
    monkeypatch.setattr(attention, "_BLOCK", 20)
    assert torch.autograd.gradcheck(attend, random((3, 2, 5, 4)))
    assert torch.autograd.gradgradcheck(attend, random((3, 2, 5, 4)))


def test_rows_are_taken_block_by_block(monkeypatch):
    monkeypatch.setattr(attention, "_BLOCK", 50)
    sizes = []

    def spy(query, key, scale):
        sizes.append(query.shape[2])
        return torch.bmm(query.mT * scale, key).softmax(dim=-1)

    monkeypatch.setattr(attention, "_weights", spy)
    attend(*random((4, 4, 13, 5)))
    assert sizes == [5, 5, 3]  # of 13; a row of both images has 10 similarities


def test_channels_last_maps_give_the_same():
    maps = [torch.randn(2, c, 5, 7).to(memory_format=torch.channels_last) for c in (4, 4, 6)]
    query, key, value = (each.flatten(2) for each in maps)
    assert query.stride(1) == 1
    expected = attend(query.contiguous(), key.contiguous(), value.contiguous())
    torch.testing.assert_close(attend(query, key, value), expected)


def test_bfloat16_gradients_are_as_near_as_the_explicit_form_s(monkeypatch):
    monkeypatch.setattr(attention, "_BLOCK", 2 * 256 * 4)
    exact = random((16, 24, 256, 256))
    rounded = tuple(each.detach().bfloat16().requires_grad_() for each in exact)
    upstream = torch.randn(2, 24, 256, dtype=torch.float64)

    def gradients(form, inputs):
        return torch.autograd.grad(form(*inputs, scale=0.25), inputs, upstream.to(inputs[0].dtype))

    for ours, theirs, true in zip(
        gradients(attend, rounded),
        gradients(explicit, rounded),
        gradients(explicit, exact),
        strict=True,
    ):
        assert ours.dtype == torch.bfloat16
        assert (ours - true).norm() < 1.1 * (theirs - true).norm()
        assert (ours - true).norm() < 0.01 * true.norm()


def test_fused_kernels_are_given_what_they_take(monkeypatch):
    strides = []
    fused = F.scaled_dot_product_attention

    def spy(*tokens, **keywords):
        strides.extend(each.stride(-1) for each in tokens)
        return fused(*tokens, **keywords)

    monkeypatch.setattr(F, "scaled_dot_product_attention", spy)
    sizes = ((2, 64, 9), (2, 64, 7), (2, 512, 7))
    result = attend(*(torch.empty(size, device="meta") for size in sizes))
    assert result.shape == (2, 512, 9)
    assert strides == [1, 1, 1]


@pytest.fixture
def _unchecked():
    """As outside pytest: the compiler cannot trace through the checks of shapes."""
    config.update("jaxtyping_disable", True)
    yield
    config.update("jaxtyping_disable", False)


@pytest.mark.long
@pytest.mark.usefixtures("_unchecked")
@pytest.mark.parametrize("scale", [None, 1.0])
def test_compiles_for_any_number_of_tokens(scale):
    compiled = torch.compile(attend, fullgraph=True, dynamic=True, backend="aot_eager")
    for shape in SHAPES[:3]:
        inputs = random(shape)
        ours, block_wise = compiled(*inputs, scale=scale), attend(*inputs, scale=scale)
        torch.testing.assert_close(ours, block_wise, rtol=0, atol=1e-12)


@pytest.mark.parametrize("shape", SHAPES)
def test_torch_s_operator_gives_the_same(shape, monkeypatch):
    inputs = random(shape, torch.float32)
    block_wise = attend(*inputs, scale=1.0)
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    monkeypatch.setattr(attention, "_BlockwiseAttention", None)  # it is not that again
    torch.testing.assert_close(attend(*inputs, scale=1.0), block_wise, rtol=0, atol=1e-5)


PEAK = """
import sys
import torch
from segcore.layers import attend
from segcore.memory import peak_memory
torch.set_num_threads(1)
def run(tokens=int(sys.argv[1]), train=sys.argv[2] == "train"):
    inputs = [torch.randn(1, width, tokens, requires_grad=train) for width in (8, 8, 16)]
    mixed = attend(*inputs)
    if train:
        mixed.sum().backward()
run(tokens=512)  # what torch loads at first use is not attention's
print(peak_memory(run, torch.device("cpu")))
"""


@pytest.mark.long
@pytest.mark.parametrize(("kind", "blocks"), [("inference", 3), ("train", 4)])
def test_peak_memory_is_a_few_blocks(kind, blocks):
    # What is freed goes back at once, so that the peak does not depend on what was freed before.
    environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": "1000000"}
    command = [sys.executable, "-c", PEAK, "16384", kind]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    # The whole matrix of 16384 tokens would be 64 of them.
    assert int(done.stdout) < blocks * attention._BLOCK * 4


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("d", "e"), [(64, 512), (256, 256)])
def test_a_gpu_uses_a_kernel_without_the_matrix(d, e, dtype):
    inputs = [each.detach() for each in random((d, e, 300, 200), torch.float32)]
    query, key, value = (each.cuda().to(dtype).requires_grad_() for each in inputs)
    with sdpa_kernel([SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION]):
        mixed = attend(query, key, value)
        mixed.sum().backward()
    atol = 1e-2 if dtype == torch.bfloat16 else 1e-4
    torch.testing.assert_close(mixed.float().cpu(), attend(*inputs), rtol=0, atol=atol)
