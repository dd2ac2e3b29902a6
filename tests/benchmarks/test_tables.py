"""The tables that benchmarks write, from figures that are made up here."""

import pytest
import torch

from benchmarks import against_peers, gpu_table, memory, networks
from benchmarks.against_peers import Cost, Row
from benchmarks.networks import build_network, peer_of, read_cases
from benchmarks.process import RefusedError
from benchmarks.tables import figure, mean_ratio, processor, ratio, table

PEER_TORCH = "2.14.0"
PER_VARIANT = {"f32": 40.0, "channels last": 32.0, "bf16": 20.0, "bf16 compiled": 10.0}


class Made:
    """A worker whose figures are known: MMSegmentation takes twice as long and cannot compile;
    an image of four times the pixels takes four times as long."""

    def __init__(self, python, library, case, device, threads, environment=None) -> None:
        if python == "absent":
            raise FileNotFoundError(python)
        self.slowness = 1.0 if library == "segcore" else 2.0
        self.described = {"torch": "2.15.0+cu132" if library == "segcore" else PEER_TORCH}

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self):
        pass

    def memory(self, variant, size):
        if variant.compiled and self.slowness > 1:
            raise RefusedError("graph break")
        return self.time(variant, size) * 10

    def time(self, variant, size):
        names = {each: name for name, each in gpu_table.VARIANTS.items()}
        plain = {against_peers.VARIANTS[1]: "channels last"}
        least = PER_VARIANT[(names | plain)[variant]]
        return least * self.slowness * size[0] * size[1] / (512 * 1024)


@pytest.fixture(autouse=True)
def _made(monkeypatch):
    monkeypatch.setattr(gpu_table, "Worker", Made)
    monkeypatch.setattr(against_peers, "Worker", Made)


def test_a_table_of_the_gpu(tmp_path, capsys):
    path = tmp_path / "gpu.md"
    gpu_table.main(["fcn-r50", "--device", "cpu", "--rounds", "2", "--output", str(path)])
    lines = path.read_text().splitlines()
    # 1000 / 80, 1000 / 40, none; 1000 / 40, / 20, / 10 ms; 80 / 10.
    assert "| fcn-r50 | 512x1024 | 4.17 | 12.5 | 25.0 | – | 25.0 | 50.0 | 100.0 | 8.00 |" in lines
    assert "| fcn-r50 | 1024x2048 | 4.17 | 3.1 | 6.2 | – | 6.2 | 12.5 | 25.0 | 8.00 |" in lines
    assert "| fcn-r50 | 512x1024 | 800 | 400 | – | 400 | 200 | 100 |" in lines
    assert "Geometric mean of the gains: 8.00." in lines
    assert "mmseg bf16 compiled: graph break" in capsys.readouterr().err


def test_a_table_of_the_gpu_without_mmsegmentation(tmp_path):
    path = tmp_path / "gpu.md"
    sizes = ["--device", "cpu", "--sizes", "512x1024", "--output", str(path)]
    gpu_table.main(["pspnet-r50", "--mmseg", "absent", *sizes])
    row = "| pspnet-r50 | 512x1024 | 4.07 | – | – | – | 25.0 | 50.0 | 100.0 | – |"
    assert row in path.read_text().splitlines()


def test_a_gpu_is_asked_for_where_there_is_none(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(gpu_table.InputError, match="no CUDA device; give --device cpu"):
        gpu_table.main(["fcn-r50"])


def test_a_table_beside_the_peers(tmp_path, capsys):
    path = tmp_path / "cpu.md"
    against_peers.main(["fcn-r50", "danet-r50", "--rounds", "2", "--output", str(path)])
    text = path.read_text()
    row = "| fcn-r50 | mmseg | 80 | 40 | 2.00 | 32 | 2.50 | 20 | 1.60 | 800 | 400 | 200 |"
    assert row in text
    assert "| attention methods | 2.000 | 2.500 | 1.600 |" in text
    assert f"torch {torch.__version__}" in text
    assert "torch is 2.15.0 here and 2.14.0 for the peer" in capsys.readouterr().err
    against_peers.main(["fcn-r50", "--mmseg", "absent", "--output", str(path)])
    assert (
        "| fcn-r50 | mmseg | – | 40 | – | 32 | – | 20 | 1.60 | – | 400 | 200 |" in path.read_text()
    )


def test_means_are_geometric_and_of_what_is_known():
    rows = [
        Row("fcn-r50", Cost(10.0, 1.0), Cost(5.0, 1.0), Cost(4.0, 1.0), Cost(1.0, 1.0)),
        Row("ann-r50", Cost(10.0, 1.0), Cost(20.0, 1.0), Cost(10.0, 1.0), Cost(2.5, 1.0)),
        Row("gcnet-r50", None, Cost(8.0, 1.0), Cost(8.0, 1.0), Cost(2.0, 1.0)),
    ]
    assert "| all | 1.000 | 1.581 | 4.000 |" in against_peers.summary(rows)
    assert "| attention methods | 0.500 | 1.000 | 4.000 |" in against_peers.summary(rows)
    assert mean_ratio([None]) is None
    assert ratio(3.0, None) is None
    assert ratio(3.0, 2.0) == 1.5


def test_markdown():
    assert table(["a", "b"], [["1", "2"]]) == "| a | b |\n| --- | --- |\n| 1 | 2 |"
    assert figure(None) == "–"
    assert figure(1.25, 1) == "1.2"
    assert processor()


@pytest.mark.long
@pytest.mark.parametrize("case", [*against_peers.R50, "ocrnet-hr18s"])
def test_every_case_is_a_network_of_ours(case):
    assert case in read_cases()
    with torch.device("meta"):
        network = build_network("segcore", case)
        images = torch.empty(1, 3, 64, 96)
    assert not network.module.training
    with torch.no_grad():
        assert network.scores(images).shape == (1, networks.CLASSES, 64, 96)


@pytest.mark.parametrize("case", networks.TORCHVISION)
def test_torchvision_s_networks_have_as_many_parameters_as_ours(case):
    counts = []
    with torch.device("meta"):
        for library in ("segcore", peer_of(case)):
            module = build_network(library, case).module
            counts.append(sum(each.numel() for each in module.parameters()))
    assert counts[0] == counts[1] > 30e6


def test_what_is_bounded_has_a_form():
    assert set(memory.BOUNDED) <= set(memory.FORMS)
