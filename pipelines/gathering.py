"""The images and videos that a person names, and one that the project draws itself."""

from pathlib import Path

from segcore import videos
from segcore.datasets import build_dataset
from segcore.decoding import Pixels, decode
from segcore.errors import InputError

SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".gif", *videos.SUFFIXES}


def gathered(paths: list[Path]) -> list[Path]:
    """Raises InputError where there is nothing, and where two files would have one output."""
    files, seen = list[Path](), dict[str, Path]()
    for path in paths:
        if not path.exists():
            raise InputError(f"{path} does not exist")
        inside = sorted(p for p in path.rglob("*") if p.suffix.lower() in SUFFIXES)
        if path.is_dir() and not inside:
            raise InputError(f"{path} holds no image or video ({', '.join(sorted(SUFFIXES))})")
        files += inside if path.is_dir() else [path]
    for path in files:
        if (other := seen.setdefault(path.stem, path)) != path:
            raise InputError(f"{other} and {path} would have the same output; label one at a time")
    return files


def drawn_scene(folder: Path) -> Path:
    scenes = build_dataset("shapes", {"train": 1, "val": 1, "seed": 7})
    scenes.acquire(folder, folder)
    return scenes.pairs(folder)["val"][0].image


def read_image(path: Path) -> Pixels:
    try:
        return decode(path.read_bytes())
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read as an image: {error}") from None
