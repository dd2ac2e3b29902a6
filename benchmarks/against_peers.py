"""Segcore, MMSegmentation and torchvision in one run: latency and memory of the same networks.

Of each case both libraries' networks stand ready, each in its own process and environment, and
take turns image by image. Where MMSegmentation's environment is missing its cells stay empty.
"""

import argparse
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch

from benchmarks.networks import peer_of, read_cases
from benchmarks.process import AS_THEY_COME, ROOT, RefusedError, Runner, Variant, Worker, take_turns
from benchmarks.tables import figure, machine, mean_ratio, ratio, table, write

R50 = (
    *("fcn-r50", "pspnet-r50", "deeplabv3-r50", "deeplabv3plus-r50", "non_local-r50"),
    *("gcnet-r50", "ann-r50", "ocrnet-r50", "isanet-r50", "danet-r50", "ccnet-r50"),
    *("encnet-r50", "bisenet-r50", "fcn-torchvision", "deeplabv3-torchvision"),
)
STEADY = {
    "MALLOC_MMAP_THRESHOLD_": str(1 << 34),
    "MALLOC_TRIM_THRESHOLD_": str(1 << 34),
    "MALLOC_TOP_PAD_": str(1 << 28),
}
"""glibc keeps what a process has freed. Otherwise it gives every large tensor back and takes it
anew, which differs from process to process."""
ATTENTION = ("non_local", "ann", "isanet", "danet", "ccnet", "ocrnet")
VARIANTS = (
    *(Variant(), Variant(channels_last=True)),
    Variant(precision="bfloat16", channels_last=True),
)

HEAD = """# Latency and memory beside MMSegmentation and torchvision

Written by `make bench`. One image of {size} pixels, in eval mode, to class scores of its own size;
random weights; both libraries' networks take turns in one run, every second round in reverse.
Times are the least of {rounds} rounds in milliseconds, shared by {starts} processes each; ratios
are of those: "speed-up" is the peer's float32 over ours, in the same layout (contiguous) and in
the one that Segcore trains and predicts in (channels last); "bf16 gain" is our float32 over our
bfloat16 (autocast), both channels last. Memory is what one image adds at its peak, in 10^6 bytes,
ours contiguous and in bfloat16. torch takes pages
of 2 MB {pages}. {allocator}
"""
TITLES = (
    *("case", "peer", "peer ms", "ours ms", "speed-up", "channels last ms", "speed-up"),
    *("bf16 ms", "bf16 gain", "peer MB", "ours MB", "bf16 MB"),
)


@dataclass(frozen=True)
class Cost:
    """Least milliseconds and peak megabytes."""

    least: float
    memory: float


@dataclass(frozen=True)
class Row:
    case: str
    peer: Cost | None
    ours: Cost
    channels_last: Cost
    bf16: Cost

    @property
    def speed_up(self) -> float | None:
        return ratio(self.peer and self.peer.least, self.ours.least)

    @property
    def speed_up_as_shipped(self) -> float | None:
        return ratio(self.peer and self.peer.least, self.channels_last.least)

    @property
    def bf16_gain(self) -> float | None:
        return ratio(self.channels_last.least, self.bf16.least)

    def cells(self) -> list[str]:
        peer = self.peer
        return [
            *(self.case, peer_of(self.case), figure(peer and peer.least)),
            *(figure(self.ours.least), figure(self.speed_up, 2)),
            *(figure(self.channels_last.least), figure(self.speed_up_as_shipped, 2)),
            *(figure(self.bf16.least), figure(self.bf16_gain, 2)),
            *(figure(peer and peer.memory), figure(self.ours.memory)),
            figure(self.bf16.memory),
        ]


@dataclass(frozen=True)
class Setting:
    """Pythons by library, and how to measure."""

    pythons: dict[str, str]
    size: tuple[int, int]
    rounds: int
    starts: int
    threads: int
    steady: bool


def compare(case: str, setting: Setting) -> Row:
    """Every start measures in processes of its own: how a process's memory happens to lie in the
    machine's makes the same network faster or slower by up to a tenth, as long as it lives."""
    times, memory = list[list[float]](), list[float]()
    for number in range(min(setting.starts, setting.rounds)):
        rounds = len(range(number, setting.rounds, setting.starts))
        with runners_of(case, setting) as runners:
            memory = memory or [runner.memory() for runner in runners]
            times.append([min(own) for own in take_turns(runners, rounds)])
    costs = [Cost(min(own), peak) for *own, peak in zip(*times, memory, strict=True)]
    ours, peer = costs[: len(VARIANTS)], costs[len(VARIANTS) :]
    return Row(case, peer[0] if peer else None, *ours)


@contextmanager
def runners_of(case: str, setting: Setting) -> Iterator[list[Runner]]:
    """Ours in all variants and, where it is there, the peer's."""
    with ExitStack() as stack:
        ours = stack.enter_context(start("segcore", case, setting))
        runners = [Runner(ours, variant, setting.size) for variant in VARIANTS]
        try:
            peer = stack.enter_context(start(peer_of(case), case, setting))
            warn_of_another_torch(ours, peer)
            runners.append(Runner(peer, VARIANTS[0], setting.size))
        except (RefusedError, FileNotFoundError) as error:
            print(f"{case}: no {peer_of(case)}: {error}", file=sys.stderr, flush=True)
        yield runners


def warn_of_another_torch(ours: Worker, peer: Worker) -> None:
    """What one torch release computes faster than another is no merit of a library."""
    releases = [each.described["torch"].partition("+")[0] for each in (ours, peer)]
    if releases[0] != releases[1]:
        print(f"torch is {releases[0]} here and {releases[1]} for the peer", file=sys.stderr)


def start(library: str, case: str, setting: Setting) -> Worker:
    environment = {} if setting.steady or library == "segcore" else AS_THEY_COME
    python, threads = setting.pythons[library], setting.threads
    return Worker(python, library, case, "cpu", threads, environment=environment)


def summary(rows: Sequence[Row]) -> str:
    """Geometric means; of the attention methods on their own as well."""
    attention = [row for row in rows if row.case.partition("-")[0] in ATTENTION]
    lines = [
        [
            name,
            figure(mean_ratio(row.speed_up for row in group), 3),
            figure(mean_ratio(row.speed_up_as_shipped for row in group), 3),
            figure(mean_ratio(row.bf16_gain for row in group), 3),
        ]
        for name, group in {"all": rows, "attention methods": attention}.items()
    ]
    return table(["geometric mean over", "speed-up", "channels last", "bf16 gain"], lines)


def main(arguments: Sequence[str] | None = None) -> None:
    asked = options().parse_args(arguments)
    height, width = (int(side) for side in asked.size.split("x"))
    if asked.steady:
        os.environ |= STEADY  # of the workers, which are to come
    pythons = {"segcore": sys.executable, "torchvision": sys.executable, "mmseg": asked.mmseg}
    setting = Setting(
        pythons, (height, width), asked.rounds, asked.starts, asked.threads, asked.steady
    )
    rows = list[Row]()
    for case in asked.cases or R50:
        rows.append(compare(case, setting))
        print(f"| {' | '.join(rows[-1].cells())} |", flush=True)
    allocator = "Freed memory is kept by all processes (`--steady`)." if asked.steady else ""
    pages = "in all processes" if asked.steady else "in ours, which ask for it"
    head = HEAD.format(**vars(asked), allocator=allocator, pages=pages).rstrip()
    parts = (head, machine("cpu", asked.threads), table(TITLES, (row.cells() for row in rows)))
    write(asked.output, *parts, summary(rows))
    print(f"{summary(rows)}\n\nwritten {asked.output}")


def options() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("cases", nargs="*", choices=[[], *read_cases()], metavar="CASE")
    parser.add_argument("--size", default="512x1024", help="height x width")
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--starts", type=int, default=2, help="processes that share the rounds")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--steady", action="store_true", help="processes keep freed memory")
    parser.add_argument("--mmseg", default=str(ROOT / ".venv-parity/bin/python"), help="its Python")
    parser.add_argument("--output", type=Path, default=ROOT / "docs/results/cpu.md")
    return parser


if __name__ == "__main__":
    main()
