"""The server of a registered model: how soon it answers, how fast, and whether it grows.

A project is made in a temporary folder, whose one model has random weights: they cost as much.
"""

import argparse
import base64
import io
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from http.client import HTTPConnection
from pathlib import Path

import cv2
import numpy as np
import psutil
import torch
from PIL import Image

from benchmarks.process import ROOT
from benchmarks.tables import figure, machine, table, write
from pipelines.registration import register
from pipelines.tracking import open_store
from segcore.model_files import build_network, save_model
from segcore.row import Run
from segcore.types import ClassTable

NAME = "fcn-resnet18-shapes"
CLASSES = 11
FIRST_ANSWER = 15
"""Seconds from the start of the command, at most."""
MOST_GROWTH = 16
"""Megabytes over the second half of the answers; the first answers of a thread take some for it."""

HEAD = """# The server of a registered model

Written by `python -m benchmarks.serving`. FCN on ResNet-18 at stride 8, {classes} classes, one JPEG
of {height}x{width} pixels ({kilobytes:.0f} kB) per request, one request after another; an answer
holds labels and overlay as PNG. First answer: from the start of `python -m pipelines.serve`, the
worst of {starts}. Memory: resident, of the server's process; growth over the second half of the
answers.
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, nargs=2, default=(360, 480), metavar=("H", "W"))
    parser.add_argument("--requests", type=int, default=1000)
    parser.add_argument("--starts", type=int, default=3)
    parser.add_argument("--output", type=Path, default=ROOT / "docs/results/serving.md")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        make_project(Path(folder))
        measure(Path(folder), tuple(arguments.size), arguments)


def make_project(root: Path) -> None:
    colours = tuple((20 * number, 0, 0) for number in range(CLASSES))
    names = tuple(f"class {number}" for number in range(CLASSES))
    run = Run(
        method="fcn",
        backbone="resnet18",
        dataset="shapes",
        output_stride=8,
        steps=1,
        batch_size=1,
        crop=(96, 96),
        evaluate_every=1,
        save_every=1,
    )
    torch.manual_seed(0)
    weights = build_network(run, CLASSES).state_dict()
    folder = root / "runs" / NAME
    save_model(folder, weights, NAME, run, ClassTable(names, colours, tuple(range(CLASSES))))
    store = open_store(root)
    run_id = store.start("shapes", NAME, config={})
    number = register(store, run_id, NAME, folder, 0.5, "none")
    store.promote(NAME, number, score=0.5, data_hash="none")


def measure(root: Path, size: tuple[int, int], arguments: argparse.Namespace) -> None:
    content = photograph(size)
    request = {"dataframe_records": [{"image": base64.b64encode(content).decode()}]}
    body = json.dumps(request)
    firsts, seconds, memory = list[float](), list[float](), list[float]()
    for start in range(arguments.starts):
        with server(root) as (port, process, begun):
            ask(port, body)
            firsts.append(time.perf_counter() - begun)
            if start + 1 < arguments.starts:
                continue
            for _ in range(arguments.requests):
                asked = time.perf_counter()
                ask(port, body)
                seconds.append(time.perf_counter() - asked)
                memory.append(process.memory_info().rss / 1e6)
    growth = memory[-1] - memory[len(memory) // 2]
    median, slow = (1000 * float(np.percentile(seconds, at)) for at in (50, 95))
    rows = [
        ["first answer, s", figure(max(firsts), 1), f"at most {FIRST_ANSWER}"],
        ["latency, median, ms", figure(median), ""],
        ["latency, 95th percentile, ms", figure(slow), ""],
        [f"memory after {len(memory)} answers, MB", figure(memory[-1]), ""],
        ["growth of memory, MB", figure(growth, 1), f"at most {MOST_GROWTH}"],
    ]
    head = HEAD.format(
        classes=CLASSES,
        height=size[0],
        width=size[1],
        kilobytes=len(content) / 1000,
        starts=arguments.starts,
    )
    write(
        arguments.output,
        head,
        machine("cpu", torch.get_num_threads()),
        table(["", "measured", "aim"], rows),
    )


def photograph(size: tuple[int, int]) -> bytes:
    coarse = np.random.default_rng(0).integers(0, 256, (12, 16, 3), np.uint8)
    pixels = cv2.resize(coarse, size[::-1], interpolation=cv2.INTER_CUBIC)
    Image.fromarray(pixels).save(file := io.BytesIO(), "JPEG", quality=90)
    return file.getvalue()


@contextmanager
def server(root: Path) -> Iterator[tuple[int, psutil.Process, float]]:
    """Its port, its process and when it was started; it answers by now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    begun = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-m", "pipelines.serve", NAME, "--port", str(port)],
        cwd=root,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.DEVNULL,
    )
    try:
        while not listens(port):
            if process.poll() is not None:
                sys.exit("the server ended before it answered")
            time.sleep(0.05)
        yield port, psutil.Process(process.pid), begun
    finally:
        process.terminate()
        process.wait()


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def ask(port: int, body: str) -> None:
    with closing(HTTPConnection("127.0.0.1", port, timeout=120)) as connection:
        connection.request("POST", "/invocations", body, {"Content-Type": "application/json"})
        response = connection.getresponse()
        answered = json.loads(response.read())
    if response.status != 200 or not answered["predictions"][0]["labels"]:
        sys.exit(f"the server answered {response.status}: {answered}")


if __name__ == "__main__":
    main()
