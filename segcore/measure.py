"""What a model costs: parameters, arithmetic, time and memory of one image's inference."""

import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from segcore.errors import InputError, suggestion
from segcore.memory import peak_memory

__all__ = ["Measurement", "count_flops", "count_parameters", "measure"]

_PRECISIONS = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}
_MEGABYTE = 1e6
_WARM_UP_ROUNDS = 3
_MEASURES = "one image at a time through the network; resizing its logits and argmax not included"


@dataclass(frozen=True)
class Measurement:
    """The cost of one image's inference.

    ``image_size`` is (height, width) in pixels; ``flops`` counts a multiply-add as two;
    ``latencies_ms`` holds every round; ``peak_memory_mb`` is what inference added at its peak to
    the memory in use before, in 10^6 bytes; ``threads`` are those torch may use on the CPU;
    ``layout`` is that of the weights. Rounds before the first one that counts warm up.
    """

    parameters: int
    flops: int
    image_size: tuple[int, int]
    latencies_ms: tuple[float, ...]
    peak_memory_mb: float
    device: str
    precision: str
    threads: int
    layout: str = "contiguous"
    compiled: bool = False

    def as_dict(self) -> dict[str, Any]:
        """For JSON, with the rules. ``fps`` are images per second at the median latency."""
        median, p90, p95 = (float(np.percentile(self.latencies_ms, at)) for at in (50, 90, 95))
        return {
            "parameters": self.parameters,
            "flops": self.flops,
            "image_size": list(self.image_size),
            "latency_ms": {"median": median, "p90": p90, "p95": p95},
            "fps": 1000 / median,
            "peak_memory_mb": self.peak_memory_mb,
            "device": self.device,
            "precision": self.precision,
            "threads": self.threads,
            "layout": self.layout,
            "compiled": self.compiled,
            "warm_up_rounds": _WARM_UP_ROUNDS,
            "rounds": len(self.latencies_ms),
            "measures": _MEASURES,
            "torch": str(torch.__version__),
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
        peak = peak_memory(forward, image.device)
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
        layout="channels_last" if is_channels_last(model) else "contiguous",
        compiled=hasattr(model, "_orig_mod"),  # what torch.compile makes of a module has it
    )


def is_channels_last(model: nn.Module) -> bool:
    """Whether some weight says so; one of size 1x1 may be both."""
    four = [each for each in model.parameters() if each.ndim == 4]
    last = torch.channels_last
    return any(each.is_contiguous(memory_format=last) and not each.is_contiguous() for each in four)


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

    The rule: convolutions (transposed ones too), matrix products and attention are counted, each
    as its sums of products; what is done value by value (norms, activations, softmax, pooling,
    resizing, biases) is not. Attention of n queries of width d over m values of width e is its
    two products, 2 n m (d + e), by whatever kernel or block a real device computes it. The pass
    runs on the meta device, where it takes no memory, so that any size can be counted.
    Published tables often count a multiply-add as one: theirs are half of these.
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
