"""Workers as seen from the program that compares them, and their taking turns."""

import json
import os
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

ROOT = Path(__file__).parents[1]
AS_THEY_COME = {"THP_MEM_ALLOC_ENABLE": "0"}
"""For other libraries, which do not ask torch for large pages; segcore/__init__.py does."""


class RefusedError(Exception):
    """The library could not do what was asked; says its own reason."""


@dataclass(frozen=True)
class Variant:
    """A way to run a network. Other precisions than float32 are autocast's."""

    precision: str = "float32"
    channels_last: bool = False
    compiled: bool = False


class Worker:
    """A network in a process of ``python``'s environment; raises RefusedError where it cannot be
    built there. ``module`` is the program that measures."""

    def __init__(
        self,
        python: str,
        library: str,
        case: str,
        device: str,
        threads: int,
        module: str = "benchmarks.worker",
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.said = tempfile.TemporaryFile("w+")  # noqa: SIM115 -- closed with the process
        self.process = subprocess.Popen(
            [python, "-W", "ignore", "-m", module],
            cwd=ROOT,
            env=os.environ | {"PYTHONPATH": str(ROOT)} | dict(environment or {}),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.said,
            text=True,
        )
        setting = {"library": library, "case": case, "device": device, "threads": threads}
        try:
            self.described: dict[str, Any] = self._answer_to(setting)
        except RefusedError:
            self.close()
            raise

    def __enter__(self) -> "Worker":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        self.process.kill()
        self.process.communicate()
        self.said.close()

    def memory(self, variant: Variant, size: Sequence[int]) -> float:
        """Megabytes (10^6 bytes) added at the peak."""
        return self._measure("memory", variant, size)

    def time(self, variant: Variant, size: Sequence[int]) -> float:
        """Milliseconds per image."""
        return self._measure("time", variant, size)

    def _measure(self, what: str, variant: Variant, size: Sequence[int]) -> float:
        asked = {"what": what, "variant": asdict(variant), "size": list(size)}
        return float(self._answer_to(asked))

    def _answer_to(self, asked: dict[str, Any]) -> Any:
        assert self.process.stdin
        assert self.process.stdout
        try:
            print(json.dumps(asked), file=self.process.stdin, flush=True)
        except BrokenPipeError:
            raise RefusedError(self._last_words()) from None
        line = self.process.stdout.readline()
        if not line:
            raise RefusedError(self._last_words())
        answer = json.loads(line)
        if "error" in answer:
            raise RefusedError(answer["error"])
        return answer["value"]

    def _last_words(self) -> str:
        self.process.wait()
        self.said.seek(0)
        return self.said.read().strip().rpartition("\n")[2] or f"status {self.process.returncode}"


@dataclass(frozen=True)
class Runner:
    """A variant of a worker's network, at one size: height and width, or a batch of them."""

    worker: Worker
    variant: Variant
    size: tuple[int, ...]

    def time(self) -> float:
        return self.worker.time(self.variant, self.size)

    def memory(self) -> float:
        return self.worker.memory(self.variant, self.size)


def take_turns(runners: Sequence[Runner], rounds: int) -> list[list[float]]:
    """Milliseconds of each, a round after the other, every second round backwards: what else the
    machine does meanwhile hits all alike."""
    times: list[list[float]] = [[] for _ in runners]
    for number in range(rounds):
        turns = list(zip(runners, times, strict=True))
        for runner, own in turns if number % 2 == 0 else reversed(turns):
            own.append(runner.time())
    return times
