"""Datasets in small: one file per dataset, ``def build(folder: Path) -> Expected``, found by name.

``build`` writes what a person or a server would have, in the published layout and formats, with
the traps of the real files:

- ``folder/packed/``: the archives, under their published names (absent where there are none);
- ``folder/unpacked/``: a drop folder that holds the same, unpacked.

``test_contract.py`` takes both through download, prepare and one batch.
"""

import io
import tarfile
import zipfile
from collections.abc import Iterable
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules
from typing import Any

import numpy as np
from PIL import Image

VOID = 255
"""What train id a pixel without label has, written here once more than in segcore."""


@dataclass(frozen=True)
class Expected:
    """What prepared shards must hold."""

    samples: dict[str, dict[str, np.ndarray]]
    """Split -> sample id -> train ids (h w), in the order of preparation."""
    options: dict[str, Any] = field(default_factory=dict)
    """Keywords of the dataset's constructor."""
    attributes: dict[str, Any] = field(default_factory=dict)
    """Published counts other than ``split_sizes`` that the miniature does not reach."""

    @property
    def split_sizes(self) -> dict[str, int]:
        return {split: len(samples) for split, samples in self.samples.items()}


def list_miniatures() -> list[str]:
    return sorted(module.name for module in iter_modules(__path__))


def build_miniature(name: str, folder: Path) -> Expected:
    return import_module(f"{__name__}.{name}").build(folder)


def write(path: Path, content: bytes | str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)


def write_lines(path: Path, lines: Iterable[str]) -> None:
    write(path, "".join(f"{line}\n" for line in lines))


def write_photo(path: Path, height: int, width: int, *, seed: int = 0, mode: str = "RGB") -> None:
    """A photograph, more or less; its format is the suffix's. ``mode="L"``: a grey one."""
    random = np.random.default_rng([seed, height, width])
    smooth = Image.fromarray(random.integers(0, 256, (3, 4, 3), np.uint8))
    path.parent.mkdir(parents=True, exist_ok=True)
    smooth.resize((width, height)).convert(mode).save(path)


def write_index(path: Path, values: np.ndarray, *, palette: bool = False) -> None:
    """An index PNG: grey, or with a palette whose colours mean nothing."""
    image = Image.fromarray(values.astype(np.uint8))
    if palette:
        image = image.convert("P")
        image.putpalette(np.random.default_rng(1).integers(0, 256, 768, np.uint8).tobytes())
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path)
    with Image.open(path) as written:
        assert np.array_equal(np.asarray(written), values), "the miniature itself is wrong"


def resource_fork(path: Path) -> None:
    """The ``._`` file that macOS lays beside a file, and archives then hold."""
    write(path.with_name(f"._{path.name}"), b"\0\5\26\7\0\2\0\0Mac OS X        ")


def pack(archive: Path, tree: Path, *members: str) -> None:
    """Files and folders of ``tree`` as a tar (``.tar``, ``.tgz``, ``.tar.gz``) or a zip."""
    files = [path for name in members for path in _files(tree / name)]
    archive.parent.mkdir(parents=True, exist_ok=True)
    if archive.suffix == ".zip":
        with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as packed:
            for path in files:
                packed.write(path, path.relative_to(tree).as_posix())
        return
    with tarfile.open(archive, "w" if archive.suffix == ".tar" else "w:gz") as packed:
        for path in files:
            content = path.read_bytes()
            entry = tarfile.TarInfo(path.relative_to(tree).as_posix())
            entry.size = len(content)
            packed.addfile(entry, io.BytesIO(content))


def _files(place: Path) -> list[Path]:
    assert place.exists(), f"the miniature lacks {place}"
    found = [place] if place.is_file() else sorted(place.rglob("*"))
    return [path for path in found if path.is_file()]
