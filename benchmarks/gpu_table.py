"""The published table of frames per second, made anew on one GPU: Segcore beside MMSegmentation.

Each network runs in float32, in bfloat16 and in bfloat16 compiled, at the training crop and at
the whole image of Cityscapes. Where MMSegmentation's environment is missing, or a library cannot
run a variant, its cells stay empty.
"""

import argparse
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import torch

from benchmarks.networks import read_cases
from benchmarks.process import ROOT, RefusedError, Runner, Variant, Worker, take_turns
from benchmarks.tables import figure, machine, mean_ratio, ratio, table, write
from segcore.errors import InputError

PUBLISHED = {
    "fcn-r50": 4.17,
    "pspnet-r50": 4.07,
    "deeplabv3plus-r50": 3.94,
    "non_local-r50": 2.72,
    "gcnet-r50": 3.93,
    "ann-r50": 3.71,
    "ocrnet-hr18s": 10.45,
}
"""Frames per second of MMSegmentation's collection, on one V100 in float32."""
SIZES = "512x1024,1024x2048"
VARIANTS = {
    "f32": Variant(),
    "bf16": Variant(precision="bfloat16", channels_last=True),
    "bf16 compiled": Variant(precision="bfloat16", channels_last=True, compiled=True),
}
BASE = "mmseg", "f32"
LIBRARIES = "mmseg", "segcore"

HEAD = """# Frames per second on {device}

Written by `python -m benchmarks.gpu_table`. One image in eval mode to class scores of its own
size, random weights; the networks of both libraries take turns in one run; frames per second are
those of the fastest of {rounds} rounds. float32 is each library's as it comes (torch lets
convolutions round to TF32); bf16 is autocast on channels-last maps. "gain" is our fastest over
MMSegmentation's float32. "published" are the collection's figures, on a V100. Memory is what one
image adds at its peak to what torch has allocated, in 10^6 bytes.
"""


@dataclass(frozen=True)
class Row:
    """Milliseconds and megabytes by (library, variant); what could not run is not there."""

    case: str
    size: str
    times: dict[tuple[str, str], float]
    memory: dict[tuple[str, str], float]

    @property
    def gain(self) -> float | None:
        ours = [value for (library, _), value in self.times.items() if library == "segcore"]
        return ratio(self.times.get(BASE), min(ours, default=None))

    def speed_cells(self) -> list[str]:
        rates = (ratio(1000.0, self.times.get(key)) for key in columns())
        cells = [self.case, self.size, figure(PUBLISHED.get(self.case), 2)]
        return [*cells, *(figure(rate, 1) for rate in rates), figure(self.gain, 2)]

    def memory_cells(self) -> list[str]:
        return [self.case, self.size, *(figure(self.memory.get(key)) for key in columns())]


def columns() -> list[tuple[str, str]]:
    return list(product(LIBRARIES, VARIANTS))


def measure_case(case: str, asked: argparse.Namespace) -> Iterator[Row]:
    """A row per size; both libraries' networks stay loaded meanwhile."""
    workers = dict[str, Worker]()
    try:
        for library in LIBRARIES:
            python = asked.mmseg if library == "mmseg" else sys.executable
            try:
                workers[library] = Worker(python, library, case, asked.device, asked.threads)
            except (RefusedError, FileNotFoundError) as error:
                print(f"{case}: no {library}: {error}", file=sys.stderr, flush=True)
        for size in asked.sizes.split(","):
            yield measure_size(case, size, workers, asked.rounds)
    finally:
        for worker in workers.values():
            worker.close()


def measure_size(case: str, size: str, workers: dict[str, Worker], rounds: int) -> Row:
    height, width = (int(side) for side in size.split("x"))
    runners = dict[tuple[str, str], Runner]()
    memory = dict[tuple[str, str], float]()
    for library, name in product(workers, VARIANTS):
        runner = Runner(workers[library], VARIANTS[name], (height, width))
        try:
            memory[library, name] = runner.memory()
        except RefusedError as error:
            print(f"{case} {size}: {library} {name}: {error}", file=sys.stderr, flush=True)
        else:
            runners[library, name] = runner
    times = take_turns(list(runners.values()), rounds)
    return Row(case, size, dict(zip(runners, map(min, times), strict=True)), memory)


def main(arguments: Sequence[str] | None = None) -> None:
    asked = options().parse_args(arguments)
    if asked.device.startswith("cuda") and not torch.cuda.is_available():
        raise InputError("this machine has no CUDA device; give --device cpu to try the script")
    rows = list[Row]()
    for case in asked.cases or PUBLISHED:
        for row in measure_case(case, asked):
            rows.append(row)
            print(f"| {' | '.join(row.speed_cells())} |", flush=True)
    name = "a CPU" if asked.device == "cpu" else torch.cuda.get_device_name(asked.device)
    names = [" ".join(key) for key in columns()]
    gain = figure(mean_ratio(row.gain for row in rows), 2)
    path = asked.output or ROOT / f"docs/results/gpu-{name.lower().replace(' ', '-')}.md"
    write(
        path,
        HEAD.format(device=name, rounds=asked.rounds).rstrip(),
        machine(asked.device, asked.threads),
        table(["case", "size", "published", *names, "gain"], (row.speed_cells() for row in rows)),
        f"Geometric mean of the gains: {gain}.",
        "## Peak memory",
        table(["case", "size", *names], (row.memory_cells() for row in rows)),
    )
    print(f"geometric mean of the gains: {gain}\nwritten {path}")


def options() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("cases", nargs="*", choices=[[], *read_cases()], metavar="CASE")
    parser.add_argument("--sizes", default=SIZES, help="heights x widths, with commas")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--mmseg", default=str(ROOT / ".venv-parity/bin/python"), help="its Python")
    parser.add_argument("--output", type=Path, help="by the card's name if not given")
    return parser


if __name__ == "__main__":
    main()
