"""Memory against allocations of known size."""

import subprocess
import sys

import pytest
import torch

from segcore import memory
from segcore.memory import peak_memory

CPU = torch.device("cpu")


def hold_64_megabytes() -> torch.Tensor:
    return torch.ones(16_000_000).sum()


FRESH = """
import torch
from segcore.memory import peak_memory

def hold_64_megabytes():
    return torch.ones(16_000_000).sum()

cpu = torch.device("cpu")
print(peak_memory(hold_64_megabytes, cpu))
print(peak_memory(lambda: [hold_64_megabytes() for _ in range(5)], cpu))
"""


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
