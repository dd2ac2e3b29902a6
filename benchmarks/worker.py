"""One network in a process of its own, measured on command.

Its library's environment runs it (``python -m benchmarks.worker``); ``benchmarks.process`` speaks
to it. The first line that it reads says which network, each further line what to measure; it
answers every line with one. Whatever libraries print goes to standard error.
"""

import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from benchmarks.networks import Network, build_network
from segcore.memory import peak_memory

WARM_SIZE = 128, 128
"""What a library sets up once should not count as the memory of a network."""
WARM_UP_ROUNDS = {"cpu": 1, "cuda": 5}
REPEATS = {"cpu": 1, "cuda": 20}
"""Images per timing: single ones of a GPU would be timed while its clock still rises."""


class Bench:
    """A network with the variants of running it that have been asked for so far."""

    def __init__(self, library: str, case: str, device: str, threads: int) -> None:
        torch.manual_seed(0)
        torch.set_num_threads(threads)
        torch.backends.cudnn.benchmark = True
        self.device = torch.device(device)
        self.network = build_network(library, case)
        self.network.module.to(self.device)
        self.warm = set[str]()
        self.compiled = dict[str, Network]()

    def parameters(self) -> int:
        return sum(each.numel() for each in self.network.module.parameters())

    def memory(self, variant: dict[str, Any], size: list[int]) -> float:
        """Megabytes (10^6 bytes) that one image's inference adds at its peak."""
        self._warm_up(variant, size)
        return peak_memory(self._run(variant, size), self.device) / 1e6

    def time(self, variant: dict[str, Any], size: list[int]) -> float:
        """Milliseconds per image."""
        self._warm_up(variant, size)
        run, repeats = self._run(variant, size), REPEATS[self.device.type]
        start = time.perf_counter()
        for _ in range(repeats):
            run()
        self._synchronise()
        return (time.perf_counter() - start) * 1000 / repeats

    def _warm_up(self, variant: dict[str, Any], size: list[int]) -> None:
        key = json.dumps([variant, size])
        if key in self.warm:
            return
        if self.device.type == "cpu":
            self._run(variant, WARM_SIZE)()
        for _ in range(WARM_UP_ROUNDS[self.device.type]):
            self._run(variant, size)()
        self._synchronise()
        self.warm.add(key)

    def _run(self, variant: dict[str, Any], size: Any) -> Callable[[], object]:
        """One inference, which on a GPU may not have ended when it returns."""
        layout = torch.channels_last if variant["channels_last"] else torch.contiguous_format
        images = torch.rand(1, 3, *size, device=self.device).to(memory_format=layout)
        self.network.module.to(memory_format=layout)
        scores = self._scores(variant)
        precision = getattr(torch, variant["precision"])

        def run() -> Tensor:
            enabled = precision != torch.float32
            with (
                torch.inference_mode(),
                torch.autocast(self.device.type, precision, enabled=enabled),
            ):
                return scores(images)

        return run

    def _scores(self, variant: dict[str, Any]) -> Callable[[Tensor], Tensor]:
        if not variant["compiled"]:
            return self.network.scores
        key = json.dumps(variant)
        if key not in self.compiled:
            torch.compiler.reset()
            # A network per size: what is fastest for one is what is compared.
            compiled: Any = torch.compile(self.network.scores, dynamic=False)
            self.compiled[key] = Network(self.network.module, compiled)
        return self.compiled[key].scores

    def _synchronise(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


def describe(bench: Any) -> dict[str, Any]:
    on_gpu = bench.device.type == "cuda"
    return {
        "parameters": bench.parameters(),
        "torch": torch.__version__,
        "device": torch.cuda.get_device_name(bench.device) if on_gpu else "cpu",
    }


@contextmanager
def answers() -> Iterator[Callable[[Any], None]]:
    """Standard output for answers alone; what libraries print there goes to standard error."""
    with os.fdopen(os.dup(1), "w", buffering=1) as output:
        os.dup2(2, 1)
        yield lambda value: print(json.dumps(value), file=output, flush=True)


def main() -> None:
    serve(Bench)


def serve(build: Callable[..., Any]) -> None:
    """Builds what measures from the first line, and answers all others."""
    with answers() as answer:
        bench = build(**json.loads(sys.stdin.readline()))
        answer({"value": describe(bench)})
        for line in sys.stdin:
            asked = json.loads(line)
            try:
                answer({"value": getattr(bench, asked.pop("what"))(**asked)})
            except (RuntimeError, TypeError, ValueError, NotImplementedError) as error:
                # A variant that a library cannot run is a result, too.
                answer({"error": f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"})


if __name__ == "__main__":
    main()
