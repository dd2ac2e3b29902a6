"""What a model costs: parameters, arithmetic, time and memory of one image's inference."""

import ctypes
import gc
import logging
import resource
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from segcore.errors import InputError, suggestion

__all__ = ["Measurement", "count_flops", "count_parameters", "measure"]

_PRECISIONS = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}
_MEGABYTE = 1e6
_WARM_UP_ROUNDS = 3


@dataclass(frozen=True)
class Measurement:
    """The cost of one image's inference.

    ``image_size`` is (height, width) in pixels; ``flops`` counts a multiply-add as two;
    ``latencies_ms`` holds every round; ``peak_memory_mb`` is what inference added at its peak to
    the memory in use before, in 10^6 bytes; ``threads`` are those torch may use on the CPU.
    """

    parameters: int
    flops: int
    image_size: tuple[int, int]
    latencies_ms: tuple[float, ...]
    peak_memory_mb: float
    device: str
    precision: str
    threads: int

    def as_dict(self) -> dict[str, Any]:
        """For JSON. ``fps`` are images per second at the median latency."""
        median, p90 = (float(np.percentile(self.latencies_ms, at)) for at in (50, 90))
        return {
            "parameters": self.parameters,
            "flops": self.flops,
            "image_size": list(self.image_size),
            "latency_ms": {"median": median, "p90": p90},
            "fps": 1000 / median,
            "peak_memory_mb": self.peak_memory_mb,
            "device": self.device,
            "precision": self.precision,
            "threads": self.threads,
        }


def measure(
    model: nn.Module,
    image_size: Sequence[int],
    *,
    rounds: int = 20,
    device: str = "cpu",
    precision: str = "float32",
) -> Measurement:
    """Measures a model in eval mode on one random image of ``image_size`` (height, width).

    The model is moved to ``device`` and stays there. Other precisions than float32 are those of
    autocast. Raises InputError on an unknown precision and a device that is not there.
    """
    _check(rounds, device, precision)
    height, width = image_size
    flops = count_flops(model, (height, width))
    was_training = model.training
    model.to(device).eval()
    image = torch.rand(1, 3, height, width, device=device)
    forward = _forward(model, image, _PRECISIONS[precision])
    try:
        for _ in range(_WARM_UP_ROUNDS):
            forward()
        peak = _peak_on_gpu(forward, image.device) if image.is_cuda else _peak_on_cpu(forward)
        latencies = tuple(_milliseconds(forward) for _ in range(rounds))
    finally:
        model.train(was_training)
    return Measurement(
        parameters=count_parameters(model),
        flops=flops,
        image_size=(height, width),
        latencies_ms=latencies,
        peak_memory_mb=peak / _MEGABYTE,
        device=torch.cuda.get_device_name(image.device) if image.is_cuda else "cpu",
        precision=precision,
        threads=torch.get_num_threads(),
    )


def _check(rounds: int, device: str, precision: str) -> None:
    if precision not in _PRECISIONS:
        raise InputError(f"no precision {precision!r}{suggestion(precision, _PRECISIONS)}")
    kind = device.partition(":")[0]
    if kind not in ("cpu", "cuda"):
        raise InputError(f"no device {device!r}; there is cpu, and cuda with a number if need be")
    if kind == "cuda" and not torch.cuda.is_available():
        raise InputError(f"device {device!r}: this machine has no CUDA device; use cpu")
    if rounds < 1:
        raise InputError(f"rounds must be at least 1, not {rounds}")


def count_parameters(model: nn.Module) -> int:
    """Learnt values; buffers such as BatchNorm's running means are not among them."""
    return sum(parameter.numel() for parameter in model.parameters())


def count_flops(model: nn.Module, image_size: Sequence[int]) -> int:
    """Floating-point operations of one image's inference, a multiply-add counting as two.

    Convolutions, matrix products and attention are counted, what is done value by value is not
    (torch's FlopCounterMode). The pass runs on the meta device: it takes no memory, and attention
    there is the two products it consists of, whatever fused kernel a real device would use.
    """
    values = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    shadows = {name: value.detach().to("meta") for name, value in values.items()}
    image = torch.empty(1, 3, *image_size, device="meta")
    was_training = model.training
    model.eval()
    counter = FlopCounterMode(display=False)
    attention: AbstractContextManager[Any] = sdpa_kernel(SDPBackend.MATH)
    try:
        with torch.no_grad(), counter, attention:
            torch.func.functional_call(model, shadows, (image,))
    finally:
        model.train(was_training)
    return counter.get_total_flops()


def _forward(model: nn.Module, image: Tensor, dtype: torch.dtype) -> Callable[[], None]:
    """One inference that has ended when it returns."""

    def run() -> None:
        enabled = dtype != torch.float32
        with torch.inference_mode(), torch.autocast(image.device.type, dtype, enabled=enabled):
            model(image)
        if image.is_cuda:
            torch.cuda.synchronize(image.device)

    return run


def _milliseconds(run: Callable[[], None]) -> float:
    start = time.perf_counter()
    run()
    return (time.perf_counter() - start) * 1000


def _peak_on_gpu(run: Callable[[], None], device: torch.device) -> int:
    before = torch.cuda.memory_allocated(device)
    torch.cuda.reset_peak_memory_stats(device)
    run()
    return torch.cuda.max_memory_allocated(device) - before


def _peak_on_cpu(run: Callable[[], None]) -> int:
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
