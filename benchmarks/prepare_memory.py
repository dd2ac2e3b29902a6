"""Memory of the stage ``prepare``, all its processes together, on images as large as Cityscapes'.

Shared pages are divided among the processes that share them (PSS), so nothing counts twice.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import psutil
import yaml
from PIL import Image

from benchmarks.process import ROOT

DATASET = "large"
SPLITS = {"train": 0.85, "val": 0.15}
DISTINCT = 8
"""Pictures per split that are truly drawn; all others are links to them."""
SECONDS_BETWEEN_LOOKS = 0.05


def draw_dataset(root: Path, images: int, size: tuple[int, int], suffix: str) -> None:
    """A project whose dataset holds ``images`` noisy scenes in two splits."""
    for split, share in SPLITS.items():
        count = round(share * images)
        for number in range(count):
            stem = f"{split}/{number:05d}"
            places = (root / f"images/{stem}.{suffix}", root / f"labels/{stem}.png")
            for place, picture in zip(places, _scene(split, number, size), strict=True):
                place.parent.mkdir(parents=True, exist_ok=True)
                if number < DISTINCT:
                    picture.save(place)
                else:
                    first = place.with_stem(f"{number % DISTINCT:05d}")
                    place.hardlink_to(first)
    options = {
        "root": str(root),
        "images": {split: f"images/{split}/{{stem}}.{suffix}" for split in SPLITS},
        "labels": "labels/{split}/{stem}.png",
        "classes": [f"class {number}" for number in range(19)],
    }
    table = {"datasets": {DATASET: {"form": "folder", "options": options}}}
    (root / "params.yaml").write_text(yaml.safe_dump(table))


def _scene(split: str, number: int, size: tuple[int, int]) -> tuple[Image.Image, Image.Image]:
    if number >= DISTINCT:
        return Image.new("RGB", (1, 1)), Image.new("L", (1, 1))  # the link alone is needed
    height, width = size
    generator = np.random.default_rng([number, len(split)])
    coarse = Image.fromarray(generator.integers(0, 256, (8, 16, 3), np.uint8))
    smooth = np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC), np.int16)
    noisy = (smooth + generator.integers(-4, 5, smooth.shape)).clip(0, 255).astype(np.uint8)
    patches = Image.fromarray(generator.integers(0, 19, (16, 32)).astype(np.uint8))
    return Image.fromarray(noisy), patches.resize((width, height), Image.Resampling.NEAREST)


def peak_of(command: Sequence[str], root: Path) -> tuple[int, int, float]:
    """Bytes that the command and all its children hold at most, their number, its seconds."""
    begun, most, together = time.monotonic(), 0, 0
    process = subprocess.Popen(
        command, cwd=root, env=os.environ | {"PYTHONPATH": str(ROOT)}, stdout=subprocess.DEVNULL
    )
    while process.poll() is None:
        held, family = 0, 0
        for each in (psutil.Process(process.pid), *_children(process.pid)):
            try:
                held += each.memory_full_info().pss
                family += 1
            except (psutil.NoSuchProcess, psutil.AccessDenied):  # ended meanwhile
                continue
        most, together = max(most, held), max(together, family)
        time.sleep(SECONDS_BETWEEN_LOOKS)
    if process.returncode:
        sys.exit(f"{' '.join(command)} ended with status {process.returncode}")
    return most, together, time.monotonic() - begun


def _children(pid: int) -> list[psutil.Process]:
    try:
        return psutil.Process(pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=500)
    parser.add_argument("--size", default="1024x2048", help="height x width")
    parser.add_argument("--suffix", choices=["png", "jpg"], default="png")
    parser.add_argument("--most", type=float, default=1.5, help="GB (10^9 bytes) that are allowed")
    asked = parser.parse_args()
    height, width = (int(side) for side in asked.size.split("x"))
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        draw_dataset(root, asked.images, (height, width), asked.suffix)
        stage = [sys.executable, "-W", "ignore", "-m"]
        subprocess.run(
            [*stage, "pipelines.download", DATASET],
            cwd=root,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
            check=True,
        )
        held, family, seconds = peak_of([*stage, "pipelines.prepare", DATASET], root)
    print(
        f"{asked.images} images of {asked.size} ({asked.suffix}): at most {held / 1e9:.2f} GB in "
        f"{family} processes together, {asked.images / seconds:.1f} images per second"
    )
    if held > asked.most * 1e9:
        sys.exit(f"more than {asked.most} GB")


if __name__ == "__main__":
    main()
