"""The most memory that something needs while it runs, and how much there is."""

import ctypes
import gc
import logging
import resource
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from math import prod
from pathlib import Path

import torch
from torch import Tensor

__all__ = ["free_memory", "named_shortage", "peak_memory", "room"]

NO_LIMIT = 1 << 62


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


def room(shape: Sequence[int], device: torch.device) -> Tensor:
    """Zeros. Raises MemoryError where they do not fit: a system would promise them, and end the
    process when they are written to."""
    if 4 * prod(shape) > free_memory(device):
        raise MemoryError(f"no room for {list(shape)}")
    return torch.zeros(*shape, device=device)


def free_memory(device: torch.device) -> int:
    """Bytes that this process can still get there, as far as the system says."""
    if device.type == "cuda":
        unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + unused
    limits = [_field("/proc/meminfo", "MemAvailable")]
    for kind, field in ((resource.RLIMIT_AS, "VmSize"), (resource.RLIMIT_DATA, "VmData")):
        most = resource.getrlimit(kind)[0]
        if most != resource.RLIM_INFINITY:
            limits.append(most - _field("/proc/self/status", field))
    return max(0, min(*limits, _left_in_group(Path("/sys/fs/cgroup"))))


def _left_in_group(group: Path) -> int:
    """Of the limit of the container, where it has one; files read before give way."""
    try:
        most, used = (int((group / f"memory.{kind}").read_text()) for kind in ("max", "current"))
        stat = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
        return most - used + int(stat["inactive_file"])
    except (OSError, ValueError, KeyError):
        return NO_LIMIT


def _field(file: str, name: str) -> int:
    """Bytes; no limit where the system does not tell."""
    try:
        lines = Path(file).read_text(encoding="utf-8").splitlines()
    except OSError:
        return NO_LIMIT
    found = [line.split()[1] for line in lines if line.startswith(f"{name}:")]
    return int(found[0]) * 1024 if found else NO_LIMIT
