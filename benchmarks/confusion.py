"""The update of a confusion matrix beside torchmetrics' and MMSegmentation's.

Each library runs in a process of its own environment on the same maps; they take turns in one
run, and the best round of each counts. A library that its environment lacks has empty cells.
"""

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from benchmarks.process import AS_THEY_COME, ROOT
from benchmarks.tables import figure, machine, ratio, table, write

LIBRARIES = ("segcore", "torchmetrics", "mmseg")
CASES = ((19, "scene"), (19, "noise"), (150, "scene"), (150, "noise"))
TARGETS = {"torchmetrics": 20, "mmseg": 6}
HEAD = """# The update of a confusion matrix beside torchmetrics' and MMSegmentation's

Written by `python -m benchmarks.confusion`. Milliseconds for label maps and predictions of 8 x
1024x2048 pixels with a tenth of them void, in memory as each library takes them (Segcore uint8,
as shards and inference hold them; the others int64); one thread, the best of {rounds} rounds
in which all take turns. Scenes are patches of one class with errors in smaller patches, noise is
a class drawn for every pixel. torchmetrics {torchmetrics} validates its input, as it does unless
told otherwise; MMSegmentation counts intersection and union, image by image.
"""
TITLES = ("classes", "maps", *LIBRARIES, "x torchmetrics (target 20)", "x mmseg (target 6)")


class Peer:
    """A library in a process of ``python``'s environment."""

    def __init__(self, python: str, library: str, extra: str) -> None:
        path = os.pathsep.join(filter(None, [str(ROOT), extra, os.environ.get("PYTHONPATH", "")]))
        self.process = subprocess.Popen(
            [python, "-W", "ignore", "-m", "benchmarks.confusion_worker", library],
            cwd=ROOT,
            env=os.environ
            | ({} if library == "segcore" else AS_THEY_COME)
            | {"OMP_NUM_THREADS": "1", "PYTHONPATH": path},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.library, self.version = library, self._answer()

    def milliseconds(self, classes: int, kind: str) -> float:
        assert self.process.stdin
        print(json.dumps([classes, kind]), file=self.process.stdin, flush=True)
        return float(self._answer())

    def _answer(self) -> Any:
        assert self.process.stdout
        line = self.process.stdout.readline()
        return json.loads(line)["value"] if line else None

    def close(self) -> None:
        self.process.kill()
        self.process.communicate()


def main(arguments: Sequence[str] | None = None) -> None:
    asked = options().parse_args(arguments)
    pythons = {"segcore": sys.executable, "torchmetrics": asked.torchmetrics, "mmseg": asked.mmseg}
    rows = list[list[str]]()
    with ExitStack() as stack:
        peers = list[Peer]()
        for library, python in pythons.items():
            if Path(python).exists():
                peers.append(Peer(python, library, asked.extra if library != "segcore" else ""))
                stack.callback(peers[-1].close)
        peers = [peer for peer in peers if peer.version]
        for classes, kind in CASES:
            best = dict.fromkeys(LIBRARIES, None) | measured(peers, classes, kind, asked.rounds)
            ratios = [ratio(best[library], best["segcore"]) for library in TARGETS]
            cells = [figure(best[library], 1) for library in LIBRARIES]
            rows.append([str(classes), kind, *cells, *(figure(each, 1) for each in ratios)])
            print(f"| {' | '.join(rows[-1])} |", flush=True)
    versions = {peer.library: peer.version for peer in peers}
    known = versions.get("torchmetrics", "(not installed)")
    head = HEAD.format(rounds=asked.rounds, torchmetrics=known).rstrip()
    write(asked.output, head, machine("cpu", 1), table(TITLES, rows))
    print(f"written {asked.output}")


def measured(
    peers: Sequence[Peer], classes: int, kind: str, rounds: int
) -> dict[str, float | None]:
    """The best of each; a round to warm up comes first."""
    times: dict[str, list[float]] = {peer.library: [] for peer in peers}
    for number in range(rounds + 1):
        for peer in peers if number % 2 == 0 else reversed(peers):
            taken = peer.milliseconds(classes, kind)
            if number:
                times[peer.library].append(taken)
    return {library: min(each) for library, each in times.items()}


def options() -> argparse.ArgumentParser:
    python = str(ROOT / ".venv-parity/bin/python")
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--mmseg", default=python, help="the Python that has MMSegmentation")
    parser.add_argument("--torchmetrics", default=python, help="the Python that has torchmetrics")
    parser.add_argument("--extra", default="", help="a folder of packages that they lack")
    parser.add_argument("--output", type=Path, default=ROOT / "docs/results/confusion.md")
    return parser


if __name__ == "__main__":
    main()
