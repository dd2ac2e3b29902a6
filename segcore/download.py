"""From wherever a dataset comes to ``data/raw/<dataset>/``, with an inventory of what is there."""

from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from pathlib import Path
from typing import Any

from segcore.acquisition import bring
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
    InputError where the files cannot be had.
    """
    (raw / INVENTORY).unlink(missing_ok=True)
    raw.mkdir(parents=True, exist_ok=True)
    bring(dataset.archives, raw, drop, dataset.home, listener)
    dataset.acquire(raw, drop)
    splits = dataset.pairs(raw).items()
    files = [(split, path) for split, pairs in splits for pair in pairs for path in pair[1:]]
    parts = [files[start : start + FILES_AT_ONCE] for start in range(0, len(files), FILES_AT_ONCE)]
    with ThreadPoolExecutor(THREADS) as pool:
        listed = list(chain.from_iterable(pool.map(lambda part: described(part, raw), parts)))
    if missing := [f"{raw / path} of split {split}" for split, path, *rest in listed if not rest]:
        head = f"{len(missing)} raw file(s) are missing; complete them"
        raise InputError(in_one_list(head, missing))
    inventory = {"home": dataset.home, "licence": dataset.licence, "files": listed}
    write_json(raw / INVENTORY, inventory)
    return inventory


def described(files: list[tuple[str, Path]], raw: Path) -> list[Any]:
    """Split, path, size and sha256 of each; of a file that is missing, split and path alone."""
    below, found = f"{raw.as_posix()}/", list[Any]()
    for split, path in files:
        found.append([split, path.as_posix().removeprefix(below)])
        try:
            found[-1] += [path.stat().st_size, sha256_of(path)]
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
            del found[-1][2:]
    return found
