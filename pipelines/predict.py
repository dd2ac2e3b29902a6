"""Labels images with a registered model: an overlay and a label PNG for each.

Images and folders of images; without any, a scene that the project draws itself.
"""

import argparse
import tempfile
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from pipelines.progress import progress
from pipelines.stage import run_safely
from pipelines.tracking import open_store
from segcore.datasets import build_dataset
from segcore.errors import InputError
from segcore.files import read_json
from segcore.inference import predict_labels
from segcore.pictures import label_png, overlay, save_png
from segcore.runs import LoadedModel, load_model

SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".gif"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("images", nargs="*", type=Path, metavar="IMAGE")
    parser.add_argument("--model", help="ROW[@alias or version]; the best row unless given")
    parser.add_argument("--out", type=Path, default=Path("predictions"))
    arguments = parser.parse_args()
    run_safely(lambda: predict(arguments.images, arguments.model, arguments.out))


def predict(images: list[Path], model: str | None, out: Path) -> None:
    name, _, version = (model or _best_row()).partition("@")
    files = _expanded(images)
    loaded = load_model(open_store(Path.cwd()).fetch(name, version or "champion"))
    if not files:
        with tempfile.TemporaryDirectory() as folder:
            _label([_drawn_scene(Path(folder))], loaded, out)
    else:
        _label(files, loaded, out)


def _best_row() -> str:
    board = Path("reports/leaderboard.json")
    if not board.exists():
        raise InputError("no report says which row is best yet; name one: --model ROW")
    return max(read_json(board), key=lambda entry: entry["miou"])["row"]


def _expanded(images: list[Path]) -> list[Path]:
    files = list[Path]()
    for path in images:
        if not path.exists():
            raise InputError(f"{path} does not exist")
        inside = sorted(p for p in path.rglob("*") if p.suffix.lower() in SUFFIXES)
        if path.is_dir() and not inside:
            raise InputError(f"{path} holds no image ({', '.join(sorted(SUFFIXES))})")
        files += inside if path.is_dir() else [path]
    return files


def _drawn_scene(folder: Path) -> Path:
    scenes = build_dataset("shapes", {"train": 1, "val": 1, "seed": 7})
    scenes.acquire(folder, folder)
    return scenes.pairs(folder)["val"][0].image


def _label(files: list[Path], model: LoadedModel, out: Path) -> None:
    with progress("predict", len(files), "images") as bar:
        for path in files:
            image = _read(path)
            labels = predict_labels(model.network, image[None])[0]
            save_png(overlay(image, labels, model.classes), out / f"{path.stem}-overlay.png")
            label_png(labels, model.classes, out / f"{path.stem}-labels.png")
            bar.advance()
    print(f"{len(files)} image(s): overlays and labels are in {out}")


def _read(path: Path) -> torch.Tensor:
    try:
        with Image.open(path) as image:
            pixels = np.array(image.convert("RGB"))
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise InputError(f"{path} cannot be read as an image: {error}") from None
    return torch.from_numpy(pixels).permute(2, 0, 1).contiguous()


if __name__ == "__main__":
    main()
