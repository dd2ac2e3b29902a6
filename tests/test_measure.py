"""Counts by hand; memory against an allocation of known size."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from segcore.backbones import build_backbone
from segcore.errors import InputError
from segcore.layers import attend
from segcore.measure import Measurement, count_flops, count_parameters, measure
from segcore.models import build_model, list_methods
from tests.narrow_networks import build_narrow


class Allocates(nn.Module):
    """Holds 64 MB for a moment."""

    def forward(self, images):
        return torch.ones(16_000_000).sum() + images.sum()


class Attends(nn.Module):
    def forward(self, images):
        tokens = images.flatten(2).transpose(1, 2)
        return F.scaled_dot_product_attention(tokens, tokens, tokens)


class AttendsBlockwise(nn.Module):
    """Queries of width 3, values of width 1, twice as many queries as keys."""

    def forward(self, images):
        tokens = images.flatten(2)
        few = tokens[:, :, ::2]
        return attend(tokens, few, few[:, :1])


def test_flops_of_a_convolution_by_hand():
    model = nn.Conv2d(3, 8, 3, stride=2, padding=1)
    # 32 x 48 places, each 8 sums of 3 x 3 x 3 products: a multiply-add is two.
    assert count_flops(model, (64, 96)) == 2 * 32 * 48 * 8 * 27
    assert count_parameters(model) == 8 * 27 + 8


def test_flops_of_attention_are_its_two_products():
    assert count_flops(Attends(), (4, 6)) == 2 * 2 * 24 * 24 * 3


def test_flops_of_block_wise_attention_are_its_two_products():
    assert count_flops(AttendsBlockwise(), (4, 6)) == 2 * 24 * 12 * (3 + 1)


def test_flops_of_position_attention_in_a_network():
    """Twice the size of the map: what grows with its square is attention alone."""
    torch.manual_seed(0)
    model = build_narrow("non_local", width=32, key_width=8)
    once, twice = count_flops(model, (128, 128)), count_flops(model, (128, 256))
    tokens = 16 * 16
    # f(N) = a N + 2 N² (d + e): f(2N) - 2 f(N) = 4 N² (d + e). Queries and values have width 8.
    assert twice - 2 * once == 4 * tokens**2 * (8 + 8)


def test_counting_changes_nothing():
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)).train()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    count_flops(model, (8, 8))
    assert model.training
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert next(model.parameters()).device.type == "cpu"


@pytest.mark.long
def test_peak_memory_is_what_inference_adds():
    peak = measure(Allocates(), (8, 8), rounds=1).peak_memory_mb
    assert 60 < peak < 80


def test_percentiles_and_rate():
    latencies = (10.0, 20.0, 30.0, 40.0, 100.0)
    told = Measurement(1, 2, (8, 16), latencies, 3.0, "cpu", "float32", 1).as_dict()
    assert told["latency_ms"] == {
        "median": 30.0,
        **{f"p{at}": float(np.percentile(latencies, at)) for at in (90, 95)},
    }
    assert told["fps"] == pytest.approx(1000 / 30)
    assert list(told) == [
        "parameters", "flops", "image_size", "latency_ms", "fps", "peak_memory_mb", "device",
        "precision", "threads", "layout", "compiled", "warm_up_rounds", "rounds", "measures",
        "torch",
    ]  # fmt: skip
    assert (told["warm_up_rounds"], told["rounds"]) == (3, 5)


@pytest.mark.long
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
def test_the_layout_of_the_weights_is_told(layout):
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 3))
    formats = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}
    model.to(memory_format=formats[layout])
    assert measure(model, (8, 8), rounds=1).layout == layout


@pytest.mark.long
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_model_is_measured_as_it_stands(precision):
    model = build_model("pspnet", build_backbone("resnet18", output_stride=8), 5, width=16).train()
    measured = measure(model, (64, 96), rounds=3, precision=precision)
    assert measured.parameters == count_parameters(model)
    assert measured.flops == count_flops(model, (64, 96)) > 0
    assert measured.image_size == (64, 96)
    assert len(measured.latencies_ms) == 3
    assert (measured.device, measured.precision) == ("cpu", precision)
    assert measured.threads == torch.get_num_threads()
    assert model.training


@pytest.mark.long
@pytest.mark.parametrize("name", list_methods())
def test_every_method_is_measured_at_any_size(name):
    model = build_narrow(name)
    measured = measure(model, (65, 97), rounds=1)
    assert measured.flops > 0
    assert measured.peak_memory_mb >= 0
    assert measured.parameters == sum(each.numel() for each in model.parameters())
    # Counting takes no memory: at this size a map of all pixels by all would be 256 GB.
    assert count_flops(model, (2048, 4096)) > 100 * measured.flops


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_a_gpu():
    measured = measure(nn.Conv2d(3, 8, 3, padding=1), (512, 512), rounds=3, device="cuda")
    assert measured.peak_memory_mb >= 512 * 512 * 8 * 4 / 1e6
    assert measured.device == torch.cuda.get_device_name()


def test_wrong_requests(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    model = nn.Conv2d(3, 8, 1)
    with pytest.raises(InputError, match="no precision 'bf16'"):
        measure(model, (8, 8), precision="bf16")
    with pytest.raises(InputError, match="no device 'gpu'; there is cpu"):
        measure(model, (8, 8), device="gpu")
    with pytest.raises(InputError, match="no CUDA device; use cpu"):
        measure(model, (8, 8), device="cuda")
    with pytest.raises(InputError, match="rounds must be at least 1"):
        measure(model, (8, 8), rounds=0)
