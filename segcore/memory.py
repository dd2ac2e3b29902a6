"""The most memory that something needs while it runs."""

import ctypes
import gc
import logging
import resource
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch

__all__ = ["named_shortage", "peak_memory"]


@contextmanager
def named_shortage(images: int, size: Sequence[int]) -> Iterator[None]:
    """Raises InputError that names what to change where a training step runs out of memory.

    ``images`` of ``size`` (height, width) are what a worker takes through the network at once.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not _is_shortage(error):
            raise
        from segcore.errors import InputError  # benchmarks measure where pydantic is not installed

        smaller = f"set micro_batch to {images // 2}, which changes no result but BatchNorm's, or "
        told = str(error).partition("\n")[0][:200]
        raise InputError(
            f"out of memory with {images} images of {size[0]}x{size[1]} at once ({told}); "
            f"{smaller if images > 1 else ''}lower crop; what fits a device of 24 GB says: "
            "python -m pipelines.plan ROW --memory 24"
        ) from None


def _is_shortage(error: Exception) -> bool:
    said = str(error)
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or (
        "DefaultCPUAllocator" in said and "memory" in said
    )


def peak_memory(run: Callable[[], object], device: torch.device) -> int:
    """Bytes that ``run`` adds at its peak to the memory in use before.

    On a GPU what torch has allocated there (``run`` may return before its work has ended), on a
    CPU the resident memory of the process, where other threads' allocations count as well.
    """
    return _peak_on_gpu(run, device) if device.type == "cuda" else _peak_on_cpu(run)


def _peak_on_gpu(run: Callable[[], object], device: torch.device) -> int:
    before = torch.cuda.memory_allocated(device)
    torch.cuda.reset_peak_memory_stats(device)
    run()
    return torch.cuda.max_memory_allocated(device) - before


def _peak_on_cpu(run: Callable[[], object]) -> int:
    """Bytes that ``run`` added at its peak to the process's resident memory."""
    gc.collect()
    _give_back_freed_memory()
    try:
        Path("/proc/self/clear_refs").write_text("5")  # the high-water mark starts anew
        before = _resident_bytes("VmRSS")
        run()
        return max(0, _resident_bytes("VmHWM") - before)
    except OSError:
        logging.getLogger(__name__).warning(
            "the peak of resident memory cannot be reset on this system; peak memory is what "
            "inference added to the highest so far, and may be too low"
        )
        before = _highest_resident_bytes()
        run()
        return _highest_resident_bytes() - before


def _give_back_freed_memory() -> None:
    """Else freed memory that the allocator keeps would take what is measured next, unseen."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc has it
    if trim is not None:
        trim(0)


def _resident_bytes(field: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    raise OSError(f"/proc/self/status has no {field}")


def _highest_resident_bytes() -> int:
    highest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return highest if sys.platform == "darwin" else highest * 1024
