"""From wherever a dataset comes to ``data/raw/<dataset>/``, with an inventory of what is there."""

from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from pathlib import Path
from typing import Any

from segcore.acquisition.archives import read_from, written_below
from segcore.acquisition.watch import NOBODY, Listener
from segcore.datasets import Dataset
from segcore.errors import InputError, in_one_list
from segcore.files import sha256_of, write_json

INVENTORY = "inventory.json"
THREADS = 4
"""Hashing leaves the interpreter free, and waits for disks."""
FILES_AT_ONCE = 200


def download(
    dataset: Dataset, raw: Path, drop: Path, listener: Listener = NOBODY
) -> dict[str, Any]:
    """Brings the raw files and writes ``inventory.json``: split, path, size and sha256 of each.

    The inventory is what the pipeline watches, one small file instead of a folder of thousands;
    paths below ``raw`` are relative to it, so that two machines write the same. Raises
    InputError where the files cannot be had, or ``raw`` cannot be written.
    """
    with written_below(raw):
        (raw / INVENTORY).unlink(missing_ok=True)
        raw.mkdir(parents=True, exist_ok=True)
        dataset.acquire(raw, drop, listener)
        files = inventory_of(dataset, raw)
        inventory = {"home": dataset.home, "licence": dataset.licence, "files": files}
        write_json(raw / INVENTORY, inventory)
    return inventory


def inventory_of(dataset: Dataset, raw: Path) -> list[list[Any]]:
    """Raises InputError that lists every file that cannot be read, unless ``prepare`` tells it."""
    with read_from(raw):
        splits = dataset.pairs(raw).items()
    files = [(split, path) for split, pairs in splits for pair in pairs for path in pair[1:]]
    parts = [files[start : start + FILES_AT_ONCE] for start in range(0, len(files), FILES_AT_ONCE)]
    with ThreadPoolExecutor(THREADS) as pool:
        listed = list(chain.from_iterable(pool.map(lambda part: described(part, raw), parts)))
    missing = [why for _, why in listed if why]
    if missing and dataset.missing_files == "refuse":
        head = f"{len(missing)} raw file(s) are missing or cannot be read; complete them"
        raise InputError(in_one_list(head, missing))
    return [entry for entry, why in listed if not why]


def described(files: list[tuple[str, Path]], raw: Path) -> list[tuple[list[Any], str]]:
    """Split, path, size and sha256 of each; of one that cannot be read, why."""
    below, found = f"{raw.as_posix()}/", list[tuple[list[Any], str]]()
    for split, path in files:
        name = path.as_posix()
        try:
            name.encode()
            size, digest = path.stat().st_size, sha256_of(path)
            found.append(([split, name.removeprefix(below), size, digest], ""))
        except OSError as error:
            found.append(([], f"{name} of split {split}: {error.strerror}"))
        except UnicodeEncodeError:
            found.append(([], f"{name!r} of split {split}: its name is no UTF-8"))
    return found
