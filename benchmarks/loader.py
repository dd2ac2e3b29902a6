"""Input pipelines beside MMSegmentation's and torchvision's, decoding included.

The same images as files for the peers and as shards for Segcore; each pipeline in its own process
and environment, the epochs taken in turn. Where MMSegmentation's environment is missing its
cells stay empty.
"""

import argparse
import io
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.process import AS_THEY_COME, ROOT
from benchmarks.tables import figure, machine, table, write
from segcore.files import sha256_of, write_json
from segcore.shards import MANIFEST, Record, write_shard
from segcore.types import ClassTable

LARGE = 1024, 2048
CLASSES = 11
TARGETS = {"shards, PNG": 1.4, "shards, JPEG": 1.8, "decoded cache": 4.0}
HEAD = """# Input pipelines beside MMSegmentation's and torchvision's

Written by `python -m benchmarks.loader`. Samples per second, decoding, augmentation, batches of 8
and normalisation included: scale 0.5 to 2, crop (the 75 % rule; torchvision has none), flip,
photometric jitter. The peers read image files and label PNGs, Segcore reads shards of the same
files. One thread in every process, and torch's pages of 2 MB in those of Segcore, which asks for
them; each process frees one large tensor first, as a network would. Epochs take turns in one run,
the best of {rounds} counts.
"x mmseg" is against MMSegmentation with as many loader workers; "median" is the middle one of the
rounds' own ratios, which a single lucky epoch does not move.
"""
SIDES = (("mmseg", 0.0), ("torchvision", 0.0), ("segcore", 0.0), ("segcore", 8.0))
"""Libraries, and the gigabytes of decoded images that they may keep."""
TITLES = ("images", "pipeline", "workers", "samples/s", "x mmseg", "median", "target")


@dataclass(frozen=True)
class Case:
    """Images of one kind, as files and as shards."""

    name: str
    files: list[list[str]]
    shards: str
    size: tuple[int, int]
    crop: tuple[int, int]
    repeats: int


class Pipeline:
    """A pipeline that runs in a process of ``python``'s environment."""

    def __init__(self, python: str, case: Case, library: str, workers: int, cache: float) -> None:
        self.case, self.library, self.workers, self.cache = case.name, library, workers, cache
        self.rates = list[float]()
        one = {"OMP_NUM_THREADS": "1", "PYTHONPATH": f"{ROOT}:{os.environ.get('PYTHONPATH', '')}"}
        if library != "segcore":
            one |= AS_THEY_COME
        self.process = subprocess.Popen(
            [python, "-W", "ignore", "-m", "benchmarks.loader_worker"],
            cwd=ROOT,
            env=os.environ | one,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._say(asdict(case) | {"library": library, "workers": workers, "cache": cache})

    def _say(self, what: Any) -> None:
        assert self.process.stdin
        print(json.dumps(what), file=self.process.stdin, flush=True)

    def epoch(self) -> float:
        """Samples per second."""
        assert self.process.stdout
        self._say("epoch")
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"the pipeline of {self.library} ended; what it said stands above")
        return json.loads(line)["value"]

    def close(self) -> None:
        self.process.kill()
        self.process.communicate()


def prepare(images: Path, labels: Path, count: int, folder: Path) -> list[Case]:
    """Cases of the images as they are, and of larger ones drawn from them."""
    names = sorted(path.stem for path in images.glob("*.png"))
    if not names:
        raise SystemExit(f"no PNG images in {images}")
    small = [(images / f"{name}.png", labels / f"{name}.png") for name in names]
    with Image.open(small[0][0]) as first:
        size = first.height, first.width
    packed = {"PNG": small[:160], "JPEG": _as_jpeg(small[:160], folder / "small-files")}
    cases = [
        _case(kind, pairs, folder / f"small-{kind}", size, (256, 256), 1)
        for kind, pairs in packed.items()
    ]
    chosen = small[:: max(len(small) // count, 1)][:count]
    for kind in ("png", "jpg"):
        large = _enlarged(chosen, folder, kind)
        name = "PNG" if kind == "png" else "JPEG"
        cases.append(_case(name, large, folder / f"{kind}-shards", LARGE, (512, 1024), 3))
    return cases


def _as_jpeg(pairs: list[tuple[Path, Path]], folder: Path) -> list[tuple[Path, Path]]:
    """The same images as most cameras store them, with the same labels."""
    folder.mkdir(parents=True)
    for image, _ in pairs:
        Image.open(image).convert("RGB").save(folder / f"{image.stem}.jpg", quality=95)
    return [(folder / f"{image.stem}.jpg", labels) for image, labels in pairs]


def _enlarged(pairs: list[tuple[Path, Path]], folder: Path, kind: str) -> list[tuple[Path, Path]]:
    """1024 x 2048 pixels with a camera's noise, without which they would pack too well."""
    generator, made = np.random.default_rng(0), list[tuple[Path, Path]]()
    size = LARGE[1], LARGE[0]
    (folder / kind).mkdir(parents=True)
    for image, labels in pairs:
        target = folder / kind / f"{image.stem}.{kind}", folder / kind / f"{image.stem}-labels.png"
        pixels = np.asarray(
            Image.open(image).resize((LARGE[1], LARGE[0]), Image.Resampling.BICUBIC)
        )
        pixels = pixels + generator.normal(0, 1.5, LARGE)[..., None]
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(target[0], quality=95)
        Image.open(labels).resize(size, Image.Resampling.NEAREST).save(target[1])
        made.append(target)
    return made


def _case(
    kind: str,
    pairs: list[tuple[Path, Path]],
    folder: Path,
    size: tuple[int, int],
    crop: tuple[int, int],
    repeats: int,
) -> Case:
    def records() -> Any:
        for image, labels in pairs:
            mask = np.asarray(Image.open(io.BytesIO(labels.read_bytes())))
            yield Record(image.stem, image.read_bytes(), mask.tobytes(), *mask.shape)

    indices = range(CLASSES)
    classes = ClassTable(tuple(map(str, indices)), ((0, 0, 0),) * CLASSES, tuple(indices))
    path = folder / "train-00000-of-00001.parquet"
    rows = write_shard(path, records(), classes)
    shard = {"name": path.name, "sha256": sha256_of(path), "rows": rows}
    head = {"dataset": "bench", "data_hash": shard["sha256"], "classes": asdict(classes)}
    write_json(folder / MANIFEST, head | {"splits": {"train": {"shards": [shard]}}})
    name = f"{size[0]}x{size[1]} {kind}, crop {crop[0]}x{crop[1]}"
    return Case(name, [[str(a), str(b)] for a, b in pairs], str(folder), size, crop, repeats)


def measure(case: Case, pythons: dict[str, str], workers: int, rounds: int) -> list[list[str]]:
    with ExitStack() as stack:
        pipelines = list[Pipeline]()
        for library, cache in SIDES:
            if Path(pythons[library]).exists():
                pipelines.append(Pipeline(pythons[library], case, library, workers, cache))
                stack.callback(pipelines[-1].close)
        for each in pipelines:
            each.epoch()  # starts workers, fills the cache
        for number in range(rounds):
            for each in pipelines if number % 2 == 0 else reversed(pipelines):
                each.rates.append(each.epoch())
    peer = next((each.rates for each in pipelines if each.library == "mmseg"), None)
    return [_row(case, each, peer) for each in pipelines]


def _row(case: Case, each: Pipeline, peer: list[float] | None) -> list[str]:
    name, target, rate = each.library, None, max(each.rates)
    if name == "segcore":
        kind = "JPEG" if "JPEG" in case.name else "PNG"
        where = "decoded cache" if each.cache else f"shards, {kind}"
        name, target = f"segcore, {where}", TARGETS[where]
    best, middle = None, None
    if peer:
        best = rate / max(peer)
        middle = median(own / other for own, other in zip(each.rates, peer, strict=True))
    cells = [figure(rate, 1), figure(best, 2), figure(middle, 2), figure(target, 1)]
    return [case.name, name, str(each.workers), *cells]


def main(arguments: Sequence[str] | None = None) -> None:
    asked = options().parse_args(arguments)
    pythons = {"segcore": sys.executable, "torchvision": sys.executable, "mmseg": asked.mmseg}
    rows = list[list[str]]()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        os.environ["SEGCORE_CACHE"] = str(folder / "cache")
        for case in prepare(asked.images, asked.labels, asked.count, folder):
            for workers in asked.workers:
                rows += measure(case, pythons, workers, asked.rounds)
                print(table(TITLES, rows), flush=True)
    head = HEAD.format(rounds=asked.rounds).rstrip()
    write(asked.output, head, machine("cpu", 1), table(TITLES, rows))
    print(f"\nwritten {asked.output}")


def options() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=Path, required=True, help="folder of PNG images")
    parser.add_argument("--labels", type=Path, required=True, help="PNG labels of the same names")
    parser.add_argument("--count", type=int, default=24, help="how many are enlarged")
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 2])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--mmseg", default=str(ROOT / ".venv-parity/bin/python"), help="its Python")
    parser.add_argument("--output", type=Path, default=ROOT / "docs/results/loader.md")
    return parser


if __name__ == "__main__":
    main()
