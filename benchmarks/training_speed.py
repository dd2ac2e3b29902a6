"""Training steps of Segcore beside MMSegmentation's and torchvision's, of the same networks.

All run in one go, each in a process and environment of its own, and take turns. What a library
cannot run, or where its environment is missing, stays empty.
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.networks import peer_of, read_cases
from benchmarks.process import (
    AS_THEY_COME,
    ROOT,
    RefusedError,
    Runner,
    Variant,
    Worker,
    take_turns,
)
from benchmarks.tables import figure, machine, ratio, table, write
from benchmarks.training_worker import build_network
from segcore.errors import InputError

CASES = ("pspnet-r50", "fcn-torchvision", "deeplabv3-torchvision")
OURS = {
    "bf16": Variant(precision="bfloat16", channels_last=True),
    "bf16 compiled": Variant(precision="bfloat16", channels_last=True, compiled=True),
}
PEERS = {
    "bf16": Variant(precision="bfloat16"),
    "bf16 channels last": Variant(precision="bfloat16", channels_last=True),
}
PEAKS = {"A100": 312.0, "H100 PCIe": 756.0, "H100": 989.0, "H200": 989.0, "L40S": 362.0}
"""10^12 operations per second in bfloat16, dense, by what the card's name holds (data sheets)."""
TITLES = ("case", "library", "variant", "ms per step", "images/s", "MFU", "MB")

HEAD = """# Training speed

Written by `python -m benchmarks.training_speed`. One training step (forward, loss of all heads,
backward, SGD) on {images} images of {size} that lie on the device, in bfloat16 by autocast,
random weights. Each library takes its own reference step; they take turns, and times are the
least of {rounds} rounds. MFU is the share of the device's peak in bfloat16 that the convolutions
and products of forward and backward take ({peak}). Memory is what a step adds at its peak to
weights and optimizer, in 10^6 bytes. "speed-up" is our fastest over the peer's fastest.
"""


@dataclass(frozen=True)
class Row:
    """``milliseconds`` and ``memory`` are of one step on ``images``, ``flops`` of one image."""

    case: str
    library: str
    variant: str
    images: int
    flops: int
    milliseconds: float | None = None
    memory: float | None = None

    @property
    def rate(self) -> float | None:
        """Images per second."""
        return ratio(1000.0 * self.images, self.milliseconds)

    def utilisation(self, peak: float | None) -> float | None:
        """Of ``peak`` (10^12 operations per second), in percent."""
        return ratio(self.rate and 100 * self.rate * self.flops, peak and peak * 1e12)

    def cells(self, peak: float | None) -> list[str]:
        share = self.utilisation(peak)
        return [
            *(self.case, self.library, self.variant, figure(self.milliseconds, 1)),
            *(figure(self.rate, 1), figure(share, 1) + " %" * (share is not None)),
            figure(self.memory),
        ]


def step_flops(case: str, size: tuple[int, int]) -> int:
    """Operations of one image's forward and backward pass, a multiply-add counting as two; as
    ``segcore.measure.count_flops`` counts them. Two images are counted and halved: BatchNorm
    wants more than one."""
    with torch.device("meta"):
        network: Any = build_network("segcore", case).train()
        counter = FlopCounterMode(display=False)
        with counter:
            prediction = network(torch.empty(2, 3, *size))
            outputs = [prediction.logits, *prediction.auxiliary]
            torch.stack([each.sum() for each in outputs]).sum().backward()
    return counter.get_total_flops() // 2


def compare(case: str, asked: argparse.Namespace) -> list[Row]:
    height, width = (int(side) for side in asked.size.split("x"))
    flops = step_flops(case, (height, width))
    rows, runners, workers = list[Row](), dict[int, Runner](), list[Worker]()
    try:
        for library, variants in ((peer_of(case), PEERS), ("segcore", OURS)):
            worker = _started(library, case, asked)
            workers += [worker] if worker else []
            for name, variant in variants.items():
                rows.append(Row(case, library, name, asked.images, flops))
                if worker:
                    runners[len(rows) - 1] = Runner(worker, variant, (asked.images, height, width))
        memory = _memory(rows, runners)
        times = take_turns([runners[place] for place in memory], asked.rounds)
    finally:
        for worker in workers:
            worker.close()
    least = dict(zip(memory, map(min, times), strict=True))
    measured = ((row, least.get(place), memory.get(place)) for place, row in enumerate(rows))
    return [
        Row(row.case, row.library, row.variant, row.images, flops, *figures)
        for row, *figures in measured
    ]


def _started(library: str, case: str, asked: argparse.Namespace) -> Worker | None:
    python = asked.mmseg if library == "mmseg" else sys.executable
    module = "benchmarks.training_worker"
    environment = {} if library == "segcore" else AS_THEY_COME
    try:
        return Worker(python, library, case, asked.device, asked.threads, module, environment)
    except (RefusedError, FileNotFoundError) as error:
        print(f"{case}: no {library}: {error}", file=sys.stderr, flush=True)
        return None


def _memory(rows: Sequence[Row], runners: dict[int, Runner]) -> dict[int, float]:
    """Megabytes of those that run at all."""
    found = dict[int, float]()
    for place, runner in runners.items():
        try:
            found[place] = runner.memory()
        except RefusedError as error:
            row = rows[place]
            print(f"{row.case}: {row.library} {row.variant}: {error}", file=sys.stderr, flush=True)
    return found


def speed_up(rows: Sequence[Row]) -> float | None:
    """Our fastest over the peer's fastest."""
    ours, theirs = (
        [each.rate for each in rows if (each.library == "segcore") == is_ours and each.rate]
        for is_ours in (True, False)
    )
    return ratio(max(ours, default=None), max(theirs, default=None))


def peak_of(asked: argparse.Namespace) -> float | None:
    if asked.peak or asked.device == "cpu":
        return asked.peak
    name = torch.cuda.get_device_name(asked.device)
    return next((peak for part, peak in PEAKS.items() if part in name), None)


def main(arguments: Sequence[str] | None = None) -> None:
    asked = options().parse_args(arguments)
    if asked.device.startswith("cuda") and not torch.cuda.is_available():
        raise InputError("this machine has no CUDA device; give --device cpu to try the script")
    peak, cells, gains = peak_of(asked), list[list[str]](), list[list[str]]()
    for case in asked.cases or CASES:
        rows = compare(case, asked)
        cells += [row.cells(peak) for row in rows]
        gains.append([case, peer_of(case), figure(speed_up(rows), 2)])
        print("\n".join(f"| {' | '.join(row.cells(peak))} |" for row in rows), flush=True)
    known = f"{peak:g} x 10^12 operations per second" if peak else "not known here"
    head = HEAD.format(images=asked.images, size=asked.size, rounds=asked.rounds, peak=known)
    write(
        asked.output,
        head.rstrip(),
        machine(asked.device, asked.threads),
        table(TITLES, cells),
        table(("case", "peer", "speed-up"), gains),
    )
    print(f"written {asked.output}")


def options() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("cases", nargs="*", choices=[[], *read_cases()], metavar="CASE")
    parser.add_argument("--size", default="512x1024", help="height x width")
    parser.add_argument("--images", type=int, default=8, help="per step")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--peak", type=float, help="of the device in bfloat16, 10^12 per second")
    parser.add_argument("--mmseg", default=str(ROOT / ".venv-parity/bin/python"), help="its Python")
    parser.add_argument("--output", type=Path, default=ROOT / "docs/results/training.md")
    return parser


if __name__ == "__main__":
    main()
