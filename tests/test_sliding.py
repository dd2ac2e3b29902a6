"""Windows over large images, against a plain loop; and what happens when memory is short."""

import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from segcore import memory, sliding
from segcore.errors import InputError
from segcore.inference import Ensemble, predict_labels, predict_labels_over_views, predictor
from segcore.memory import free_memory
from segcore.sliding import enlarged, in_windows, smaller_windows, window_places
from segcore.tables import TestTime
from segcore.transforms import normalise
from segcore.types import Prediction


class Blurred(nn.Module):
    """Scores at a quarter of the size, whose neighbourhood reaches beyond a window's end."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(5)
        self.mix = nn.Conv2d(3, 6, 5, padding=2)

    def forward(self, images):
        return Prediction(F.avg_pool2d(self.mix(images), 4, ceil_mode=True))


def looped(network: nn.Module, image: torch.Tensor, window: tuple, stride: tuple) -> torch.Tensor:
    """MMSegmentation's sliding mode as its documentation has it: pad, add, count, divide."""
    height, width = image.shape[-2:]
    sums, counts = torch.zeros(1, 6, height, width), torch.zeros(1, 1, height, width)
    for row in range(max(height - window[0] + stride[0] - 1, 0) // stride[0] + 1):
        for column in range(max(width - window[1] + stride[1] - 1, 0) // stride[1] + 1):
            bottom = min(row * stride[0] + window[0], height)
            right = min(column * stride[1] + window[1], width)
            top, left = max(bottom - window[0], 0), max(right - window[1], 0)
            piece = normalise(image[:, :, top:bottom, left:right])
            with torch.no_grad():
                scores = F.interpolate(network(piece).logits, piece.shape[-2:], mode="bilinear")
            sums += F.pad(scores, (left, width - right, top, height - bottom))
            counts[:, :, top:bottom, left:right] += 1
    assert counts.min() >= 1
    return sums / counts


@torch.inference_mode()
def windowed(network, image, window, stride) -> torch.Tensor:
    return in_windows(
        network, image, window, stride, lambda bands: torch.cat([b.clone() for b in bands], 2)
    )


@pytest.mark.parametrize(
    ("size", "window", "stride"),
    [
        ((40, 56), (16, 16), (10, 10)),
        ((37, 53), (16, 24), (16, 7)),
        ((64, 30), (20, 30), (5, 30)),  # a pixel is seen by up to four windows
        ((9, 50), (16, 16), (12, 12)),  # lower than a window
        ((16, 16), (16, 16), (8, 8)),
        ((33, 33), (32, 32), (32, 32)),  # the last window is moved by all but a pixel
    ],
)
def test_windows_are_those_of_a_plain_loop(size, window, stride):
    network = Blurred()
    image = torch.randint(0, 256, (1, 3, *size), dtype=torch.uint8)
    expected = looped(network, image, window, stride)
    assert torch.equal(windowed(network, image, window, stride), expected)
    found = predictor(TestTime(window=window, stride=stride), range(6))(network, image)
    assert torch.equal(found, expected.argmax(1).to(torch.uint8))


def test_places_of_windows_by_hand():
    assert window_places(10, 4, 3) == [(0, 4), (3, 7), (6, 10)]
    assert window_places(11, 4, 3) == [(0, 4), (3, 7), (6, 10), (7, 11)]
    assert window_places(3, 4, 3) == [(0, 3)]


def test_one_window_is_the_whole_image():
    network = Blurred()
    image = torch.randint(0, 256, (2, 3, 24, 36), dtype=torch.uint8)
    how = TestTime(window=(24, 36), stride=(8, 8))
    found = predictor(how, range(6))(network, image)
    assert torch.equal(found, predict_labels(network, image))


def test_windows_of_every_scale_and_flip():
    network, size = Blurred(), (30, 44)
    image = torch.randint(0, 256, (1, 3, *size), dtype=torch.uint8)
    mirror, total = [0, 2, 1, 3, 5, 4], torch.zeros(1, 6, *size)
    how = TestTime(scales=(0.75, 1.0), flip=True, window=(16, 16), stride=(11, 11))

    def seen(view: torch.Tensor) -> torch.Tensor:
        # of views that are floating already: the loop normalises, so it is undone before
        scores = windowed(network, view, (16, 16), (11, 11))
        return F.interpolate(scores, size, mode="bilinear").softmax(1)

    for sides in ((22, 33), size):
        view = F.interpolate(normalise(image), sides, mode="bilinear")
        total += seen(view) + seen(view.flip(-1)).flip(-1)[:, mirror]
    found = predictor(how, mirror)(network, image)
    assert (found != total.argmax(1)).float().mean() <= 0.005  # rounding may decide a tie


# --- memory --------------------------------------------------------------------------------------


class Greedy(Blurred):
    """Fails as torch does on a CPU when it is given more than so many pixels."""

    most = 1000

    def __init__(self) -> None:
        super().__init__()
        self.batches = list[int]()

    def forward(self, images):
        self.batches.append(len(images))
        if len(images) * images.shape[-2] * images.shape[-1] > self.most:
            raise RuntimeError(
                "[enforce fail at alloc_cpu.cpp:131] . DefaultCPUAllocator: can't allocate "
                "memory: you tried to allocate 123 bytes. Error code 12 (Cannot allocate memory)"
            )
        return super().forward(images)


@pytest.fixture(autouse=True)
def _windows_may_be_small(monkeypatch):
    monkeypatch.setattr(sliding, "SMALLEST", 8)


def test_a_whole_image_that_does_not_fit_is_seen_through_windows(caplog):
    network = Greedy()
    image = torch.randint(0, 256, (1, 3, 60, 80), dtype=torch.uint8)
    with caplog.at_level(logging.WARNING), smaller_windows() as told:
        found = predict_labels(network, image)
    assert told == [(30, 40), (15, 20)]
    expected = looped(Blurred(), image, (15, 20), (10, 13))  # 60x80, 30x40: more than 1000
    assert torch.equal(found, expected.argmax(1).to(torch.uint8))
    (first, second) = caplog.messages
    assert "60x80 pixels does not fit in memory in one piece of 60x80" in first
    assert "windows of 15x20 instead, as another protocol would" in second
    many = predict_labels_over_views(network, image, scales=[1.0], flip=False, mirror=range(6))
    assert torch.equal(many, found)


def test_windows_that_do_not_fit_are_halved(caplog):
    network = Greedy()
    image = torch.randint(0, 256, (1, 3, 60, 80), dtype=torch.uint8)
    found = predictor(TestTime(window=(40, 40), stride=(20, 30)), range(6))(network, image)
    expected = looped(Blurred(), image, (20, 20), (10, 15))
    assert torch.equal(found, expected.argmax(1).to(torch.uint8))
    assert "one piece of 40x40; it is seen through windows of 20x20" in caplog.text


def test_fewer_windows_at_a_time_come_before_smaller_ones(monkeypatch, caplog):
    """As on a GPU that has less memory left than the first window promised."""
    monkeypatch.setattr(sliding, "_first", lambda network, piece, _: (8, enlarged(network, piece)))
    network = Greedy()
    network.most = 4 * 20 * 20
    image = torch.randint(0, 256, (1, 3, 40, 200), dtype=torch.uint8)
    with smaller_windows() as told:
        found = predictor(TestTime(window=(20, 20), stride=(20, 20)), range(6))(network, image)
    assert network.batches == [1, 8, 4, 4, 1, 4, 4, 2]
    expected = looped(Blurred(), image, (20, 20), (20, 20)).argmax(1)
    assert (found != expected).float().mean() <= 0.005  # sums of a batch in another order
    assert (told, caplog.text) == ([], "")


VIEWS = TestTime(scales=(0.5, 1.0), flip=True)
MIRROR = [0, 2, 1, 3, 5, 4]


@pytest.mark.parametrize("windows", [None, ((16, 24), (10, 12))])
def test_views_that_do_not_fit_are_those_of_windows_of_the_image(monkeypatch, caplog, windows):
    network, ensemble = Greedy(), Ensemble(Blurred(), [(0.5, 0.5), (1.0, 1.0)], MIRROR, windows)
    how = VIEWS.model_copy(update=dict(zip(("window", "stride"), windows or (), strict=False)))
    if windows:  # then it is the sums of six classes that do not fit
        monkeypatch.setattr(memory, "free_memory", lambda device: 4 * 6 * 15 * 80)
    image = torch.randint(0, 256, (1, 3, 60, 80), dtype=torch.uint8)
    with smaller_windows() as told:
        found = predictor(how, MIRROR)(network, image)
    assert told == [(30, 40), (15, 20)]
    expected = looped(ensemble, image, (15, 20), (10, 13))
    assert (found != expected.argmax(1)).float().mean() <= 0.005
    assert len(found.unique()) > 1


def test_what_no_window_helps_is_told():
    network = Greedy()
    network.most = 10
    image = torch.zeros(1, 3, 60, 80, dtype=torch.uint8)
    with pytest.raises(InputError, match=r"60x80 pixels does not fit.*windows of 8x10; free some"):
        predict_labels(network, image)


def test_other_errors_pass(monkeypatch):
    def broken(images):
        raise RuntimeError("something else")

    network = Blurred()
    monkeypatch.setattr(network, "forward", broken)
    with pytest.raises(RuntimeError, match="something else"):
        predict_labels(network, torch.zeros(1, 3, 60, 80, dtype=torch.uint8))


def test_what_would_not_fit_is_not_even_tried(monkeypatch, caplog):
    """The system may end a process that asks for too much: it is measured on a part before."""
    seen = list[tuple[int, ...]]()

    class Watched(Blurred):
        def forward(self, images):
            seen.append(tuple(images.shape[-2:]))
            return super().forward(images)

    monkeypatch.setattr(sliding, "free_memory", lambda device: 1_000_000)
    monkeypatch.setattr(sliding, "peak_memory", lambda run, device: (run(), 40 * 256 * 256)[1])
    image = torch.randint(0, 256, (1, 3, 300, 400), dtype=torch.uint8)
    predict_labels(Watched(), image)
    assert seen[0] == (256, 256)
    assert max(seen[1:]) == (150, 200)
    assert "300x400 pixels does not fit" in caplog.text


@pytest.mark.long
def test_free_memory_heeds_the_limits_of_the_process():
    code = (
        "import resource, torch; from segcore.memory import free_memory; "
        "resource.setrlimit(resource.RLIMIT_DATA, (2 << 30, 2 << 30)); "
        "print(free_memory(torch.device('cpu')))"
    )
    free = int(subprocess.run([sys.executable, "-c", code], stdout=-1, check=True).stdout)
    assert 1 << 28 < free < 2 << 30
    assert free_memory(torch.device("cpu")) > 1 << 28


def test_the_limit_of_a_container(tmp_path: Path):
    for name, text in {
        "max": "1000",
        "current": "700",
        "stat": "anon 5\ninactive_file 50\n",
    }.items():
        (tmp_path / f"memory.{name}").write_text(text)
    assert memory._left_in_group(tmp_path) == 350
    (tmp_path / "memory.max").write_text("max\n")
    assert memory._left_in_group(tmp_path) == memory.NO_LIMIT


LARGE = """
import resource, sys
import torch
from segcore.backbones import build_backbone
from segcore.inference import predictor
from segcore.models import build_model
from segcore.tables import TestTime

torch.set_num_threads(1)
backbone = build_backbone("resnet18", channels=(16, 32, 64, 128))
network = build_model("fcn", backbone, 19, width=32, num_convs=1).eval()
image = torch.randint(0, 256, (1, 3, 8192, 8192), dtype=torch.uint8)
resource.setrlimit(resource.RLIMIT_DATA, (3 << 30, 3 << 30))
how = {
    "windows": TestTime(window=(1024, 1024), stride=(1024, 1024)),
    "whole": TestTime(),
    "views": TestTime(scales=(0.5, 1.0), flip=True),
}[sys.argv[1]]
labels = predictor(how, range(19))(network, image)
assert labels.shape == (1, 8192, 8192) and len(labels.unique()) > 1
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
"""


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("how", ["windows", "whole", "views"])
def test_a_huge_image_under_three_gigabytes(how):
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    ended = subprocess.run(
        [sys.executable, "-c", LARGE, how], capture_output=True, text=True, env=environment
    )
    assert ended.returncode == 0, ended.stderr
    # Views fill the limit, in which libraries do not count: 250 MB of what is resident.
    assert int(ended.stdout) < (3 << 30) + (how == "views") * (1 << 28)
    assert ("does not fit in memory" in ended.stderr) == (how != "windows")


PEAK = """
import torch
from segcore.inference import _most_likely
from segcore.memory import peak_memory

torch.set_num_threads(1)
scores = torch.randn(1, 150, 128, 256)
_most_likely(scores[:, :20, :9, :9], torch.Size((16, 16)))
size = torch.Size((1024, 2048))
print(peak_memory(lambda: _most_likely(scores, size), torch.device("cpu")))
"""


@pytest.mark.long
def test_labels_of_150_classes_add_little_memory():
    """Enlarged at once, the scores alone would take 1.26 GB."""
    ended = subprocess.run([sys.executable, "-c", PEAK], stdout=-1, check=True)
    assert int(ended.stdout) <= 150e6
