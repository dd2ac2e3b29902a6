"""Training steps of three libraries: what a step is, what it costs, and the table of both."""

import functools
import sys

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from benchmarks import training_speed, training_worker
from benchmarks.process import AS_THEY_COME, RefusedError
from benchmarks.training_speed import OURS, PEERS, Row, speed_up, step_flops
from benchmarks.training_worker import CLASSES, TrainingBench, build_network
from segcore.measure import count_flops
from segcore.types import Prediction

BFLOAT16 = {"precision": "bfloat16", "channels_last": True, "compiled": False}
FLOAT32 = {"precision": "float32", "channels_last": False, "compiled": False}


class Probe(nn.Module):
    """A convolution with two outputs in the form of either library."""

    def __init__(self, library: str) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.library, self.seen = library, []
        self.backbone = nn.Conv2d(3, 4, 1)
        self.classify = nn.Conv2d(4, CLASSES, 1)

    def forward(self, images):
        logits = self.classify(self.backbone(images))
        last = images.is_contiguous(memory_format=torch.channels_last)
        self.seen.append((tuple(images.shape), logits.dtype, last, self.training))
        if self.library == "segcore":
            return Prediction(logits, (logits / 2,))
        return {"out": logits, "aux": logits / 2}


@pytest.fixture(params=["segcore", "torchvision"])
def bench(request, monkeypatch) -> TrainingBench:
    probe = Probe(request.param)
    monkeypatch.setattr(training_worker, "build_network", lambda library, case: probe)
    made = TrainingBench(request.param, "fcn-torchvision", "cpu", torch.get_num_threads())
    made.probe = probe
    return made


@pytest.mark.long
def test_a_timing_is_of_the_batch_and_precision_asked_for(bench):
    before = [value.detach().clone() for value in bench.probe.parameters()]
    assert bench.time(BFLOAT16, [2, 8, 16]) > 0
    warm_up, timed = bench.probe.seen
    is_theirs = bench.library == "torchvision"  # ours normalises to the other layout
    assert warm_up == timed == ((2, 3, 8, 16), torch.bfloat16, is_theirs, True)
    after = list(bench.probe.parameters())
    assert not any(torch.equal(a, b) for a, b in zip(after, before, strict=True))
    assert {value.dtype for value in after} == {torch.float32}
    bench.time(BFLOAT16, [2, 8, 16])
    assert len(bench.probe.seen) == 3  # it is warm by now
    bench.time(FLOAT32, [1, 8, 8])
    assert bench.probe.seen[-1][:2] == ((1, 3, 8, 8), torch.float32)
    assert bench.memory(FLOAT32, [1, 8, 8]) >= 0
    assert bench.parameters() == 4 * 4 + 5 * CLASSES


def test_a_compiled_variant_is_compiled(bench, monkeypatch):
    asked = []
    monkeypatch.setattr(torch, "compile", lambda run: asked.append(run) or functools.partial(run))
    if bench.library == "segcore":  # the network itself, which is a module
        monkeypatch.setattr(torch, "compile", lambda run: asked.append(run) or run)
    for _ in range(2):
        bench.time(FLOAT32 | {"compiled": True}, [1, 8, 8])
    assert len(asked) == 1


def test_the_reference_step_of_torchvision_weighs_its_auxiliary_output_by_half():
    network = Probe("torchvision")
    data = training_worker.made_up([2, 8, 8], torch.device("cpu"), False)
    logits = network(data.images)["out"]
    main, half = (F.cross_entropy(each, data.labels.long()) for each in (logits, logits / 2))
    step = training_worker.step_of_torchvision(network, FLOAT32, data)
    assert step() == pytest.approx(float((main + 0.5 * half).detach()))


def test_the_arithmetic_of_a_step_is_three_forward_passes_but_for_the_first_gradient():
    with torch.device("meta"):
        network = build_network("segcore", "fcn-torchvision")
    forward = count_flops(network, (64, 64))
    auxiliary = 2 * (1024 * 256 * 9 + 256 * CLASSES) * 8 * 8  # which inference has not
    first = 2 * (3 * 64 * 7 * 7) * 32 * 32  # nobody asks for the gradient of the image
    assert step_flops("fcn-torchvision", (64, 64)) == 3 * (forward + auxiliary) - first


class Made:
    """A worker whose figures are known: the peer takes 80 ms, we 40 and, compiled, 20."""

    def __init__(self, python, library, case, device, threads, module, environment) -> None:
        assert module == "benchmarks.training_worker"
        assert environment == ({} if library == "segcore" else AS_THEY_COME)
        if python == "absent":
            raise FileNotFoundError(python)
        self.library = library

    def close(self):
        pass

    def memory(self, variant, size):
        if variant == PEERS["bf16 channels last"]:
            raise RefusedError("out of memory")
        return 100.0

    def time(self, variant, size):
        assert size == (4, 64, 64)
        return 80.0 if self.library != "segcore" else 20.0 if variant.compiled else 40.0


def test_the_table(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(training_speed, "Worker", Made)
    monkeypatch.setattr(training_speed, "step_flops", lambda case, size: 10**10)
    path = tmp_path / "training.md"
    arguments = ["--device", "cpu", "--size", "64x64", "--images", "4", "--rounds", "2"]
    cases = ["fcn-torchvision", "pspnet-r50", "--mmseg", "absent"]
    training_speed.main([*cases, *arguments, "--peak", "8", "--output", str(path)])
    lines = path.read_text().splitlines()
    # 4 images in 80 ms are 50 a second, 5 x 10^11 operations of the 8 x 10^12.
    assert "| fcn-torchvision | torchvision | bf16 | 80.0 | 50.0 | 6.2 % | 100 |" in lines
    assert "| fcn-torchvision | torchvision | bf16 channels last | – | – | – | – |" in lines
    assert "| fcn-torchvision | segcore | bf16 compiled | 20.0 | 200.0 | 25.0 % | 100 |" in lines
    assert "| fcn-torchvision | torchvision | 4.00 |" in lines
    assert "| pspnet-r50 | mmseg | bf16 | – | – | – | – |" in lines
    assert "| pspnet-r50 | mmseg | – |" in lines
    assert "out of memory" in capsys.readouterr().err


def test_without_a_known_peak_there_is_no_utilisation():
    row = Row("a", "segcore", "bf16", 4, 10**10, 80.0, 100.0)
    assert row.cells(None)[5] == "–"
    assert speed_up([row]) is None
    assert OURS.keys() == {"bf16", "bf16 compiled"}


@pytest.mark.slow
def test_it_runs_for_real_at_a_tiny_size(tmp_path, monkeypatch):
    monkeypatch.setattr(training_speed, "OURS", {"bf16": OURS["bf16"]})  # compiling takes minutes
    monkeypatch.setattr(training_speed, "PEERS", {"bf16": PEERS["bf16"]})
    path = tmp_path / "training.md"
    arguments = ["--device", "cpu", "--size", "64x64", "--images", "2", "--rounds", "1"]
    training_speed.main(
        ["fcn-torchvision", *arguments, "--mmseg", sys.executable, "--output", str(path)]
    )
    rows = [line.split(" | ") for line in path.read_text().splitlines() if "| bf16 |" in line]
    assert [row[1] for row in rows] == ["torchvision", "segcore"]
    assert all(float(row[3]) > 0 for row in rows)
