"""What a worker measures, and how the program that compares them speaks to it."""

import functools
import sys

import pytest
import torch
from torch import nn

from benchmarks import worker
from benchmarks.networks import Network
from benchmarks.process import RefusedError, Runner, Variant, Worker, take_turns
from benchmarks.worker import Bench

FLOAT32 = {"precision": "float32", "channels_last": False, "compiled": False}


class Probe(nn.Module):
    """A convolution that remembers how it was run."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 16, 3, padding=1)
        self.seen = []

    def forward(self, images):
        out = self.conv(images)
        is_last = images.is_contiguous(memory_format=torch.channels_last)
        self.seen.append((tuple(images.shape[2:]), out.dtype, is_last, torch.is_inference(out)))
        return out


@pytest.fixture
def bench(monkeypatch) -> Bench:
    probe = Probe().eval()
    monkeypatch.setattr(worker, "build_network", lambda library, case: Network(probe, probe))
    return Bench("segcore", "probe", "cpu", torch.get_num_threads())


def test_a_timing_is_of_the_size_and_precision_asked_for(bench):
    assert bench.time(FLOAT32, [32, 48]) > 0
    warm_up, again, timed = bench.network.module.seen
    assert warm_up == ((128, 128), torch.float32, False, True)
    assert again == timed == ((32, 48), torch.float32, False, True)
    bench.time(FLOAT32, [32, 48])
    assert len(bench.network.module.seen) == 4  # it is warm by now
    bench.time(FLOAT32 | {"precision": "bfloat16", "channels_last": True}, [32, 48])
    assert bench.network.module.seen[-1] == ((32, 48), torch.bfloat16, True, True)


def test_memory_is_what_one_image_adds(bench):
    # 16 maps of 1024 x 1024 values of 4 bytes; a convolution may need room of its own beside.
    assert 67 <= bench.memory(FLOAT32, [1024, 1024]) < 150
    assert bench.parameters() == 16 * 27 + 16


def test_a_compiled_variant_is_compiled_once_and_for_its_size(bench, monkeypatch):
    asked = []

    def compile_plainly(scores, **options):
        asked.append(options)
        return functools.partial(scores)

    monkeypatch.setattr(torch, "compile", compile_plainly)
    compiled = FLOAT32 | {"compiled": True}
    for size in ([32, 48], [48, 32], [32, 48]):
        bench.time(compiled, size)
    assert asked == [{"dynamic": False}]
    bench.time(FLOAT32, [32, 48])
    assert len(asked) == 1


class Listed:
    """A worker that writes down who was asked."""

    def __init__(self, name, order) -> None:
        self.name, self.order = name, order

    def time(self, variant, size):
        self.order.append(self.name)
        return float(len(self.order))


def test_runners_take_turns_and_every_second_round_goes_backwards():
    order = []
    runners = [Runner(Listed(name, order), Variant(), (8, 8)) for name in "abc"]
    times = take_turns(runners, 3)
    assert "".join(order) == "abccbaabc"
    assert times == [[1.0, 6.0, 7.0], [2.0, 5.0, 8.0], [3.0, 4.0, 9.0]]


@pytest.mark.long
def test_a_worker_answers_until_it_is_closed():
    with Worker(sys.executable, "torchvision", "fcn-torchvision", "cpu", 1) as process:
        assert process.described["device"] == "cpu"
        assert process.described["torch"] == torch.__version__
        assert process.memory(Variant(), (64, 64)) > 0
        with pytest.raises(RefusedError, match=r"RuntimeError: .*negative dimension"):
            process.memory(Variant(), (64, -1))
        assert process.time(Variant(), (64, 64)) > 0
    assert process.process.returncode is not None


@pytest.mark.long
def test_what_cannot_be_built_says_why():
    with pytest.raises(RefusedError, match="No module named"):
        Worker(sys.executable, "mmseg", "fcn-r50", "cpu", 1)
