"""Memory against allocations of known size."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from segcore import memory
from segcore.errors import InputError
from segcore.memory import named_shortage, peak_memory

CPU = torch.device("cpu")


def hold_64_megabytes() -> torch.Tensor:
    return torch.ones(16_000_000).sum()


FRESH = """
import torch
from segcore.errors import InputError
from segcore.memory import named_shortage, peak_memory

def hold_64_megabytes():
    return torch.ones(16_000_000).sum()

cpu = torch.device("cpu")
print(peak_memory(hold_64_megabytes, cpu))
print(peak_memory(lambda: [hold_64_megabytes() for _ in range(5)], cpu))
"""


@pytest.mark.long
def test_peak_memory_is_what_is_held_at_once():
    """In a process of its own: after other tests the allocator may keep what was freed."""
    told = subprocess.run([sys.executable, "-c", FRESH], capture_output=True, text=True, check=True)
    once, one_after_the_other = map(int, told.stdout.split())
    assert 60e6 < once < 80e6
    assert 60e6 < one_after_the_other < 80e6  # each freed before the next: no more than one


def test_memory_in_use_before_does_not_count():
    before = torch.ones(16_000_000)
    assert peak_memory(lambda: before.sum(), CPU) < 20e6


def test_without_a_resettable_peak_the_fallback_says_so(monkeypatch, caplog):
    def refuse(*_):
        raise PermissionError("no")

    monkeypatch.setattr(memory.Path, "write_text", refuse)
    assert peak_memory(hold_64_megabytes, CPU) >= 0
    assert "may be too low" in caplog.text


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_a_gpu():
    device = torch.device("cuda")
    peak = peak_memory(lambda: torch.ones(16_000_000, device=device).sum(), device)
    assert 64e6 <= peak < 70e6


SHORT_OF_MEMORY = """
import resource
import torch
from segcore.errors import InputError
from segcore.memory import named_shortage

torch.ones(2)
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 100_000_000, -1))
try:
    with named_shortage(6, (512, 1024)):
        torch.ones(1_000_000_000)
except InputError as error:
    print(error)
"""


@pytest.mark.long
def test_a_shortage_names_what_to_change():
    """A true one: a limit of the process, met by torch's allocator."""
    told = subprocess.run(
        [sys.executable, "-c", SHORT_OF_MEMORY], capture_output=True, text=True, check=True
    ).stdout
    assert told.startswith("out of memory with 6 images of 512x1024 at once (")
    assert "set micro_batch to 3" in told
    assert "lower crop" in told
    assert "python -m pipelines.plan" in told


def test_one_image_cannot_be_divided():
    with (
        pytest.raises(InputError, match=r"out of memory with 1 images .*\); lower crop"),
        named_shortage(1, (64, 64)),
    ):
        raise MemoryError("no memory")


def test_other_errors_pass():
    with pytest.raises(RuntimeError, match="shapes"), named_shortage(2, (64, 64)):
        raise RuntimeError("shapes do not fit")


PAGES = Path("/sys/kernel/mm/transparent_hugepage/enabled")
IN_LARGE_PAGES = """
import segcore, torch
values = torch.zeros(64 << 20, dtype=torch.uint8)
rollup = open("/proc/self/smaps_rollup").read()
print(int(rollup.split("AnonHugePages:")[1].split()[0]))
"""


@pytest.mark.skipif(
    not PAGES.exists() or "[never]" in PAGES.read_text(), reason="this system has no large pages"
)
def test_large_tensors_lie_in_large_pages_unless_somebody_says_no():
    def kilobytes(**settings: str) -> int:
        environment = {key: value for key, value in os.environ.items() if "THP" not in key}
        command = [sys.executable, "-c", IN_LARGE_PAGES]
        return int(subprocess.check_output(command, env=environment | settings, text=True))

    assert kilobytes() > 48 << 10
    if "[madvise]" in PAGES.read_text():
        assert kilobytes(THP_MEM_ALLOC_ENABLE="0") < 16 << 10
