"""From wherever a dataset comes to ``data/raw/<dataset>/``, with an inventory of what is there."""

from pathlib import Path
from typing import Any

from segcore.datasets import Dataset
from segcore.errors import InputError
from segcore.files import sha256_of, write_json

INVENTORY = "inventory.json"


def download(dataset: Dataset, raw: Path, drop: Path) -> dict[str, Any]:
    """Brings the raw files and writes ``inventory.json``: split, path, size and sha256 of each.

    The inventory is what the pipeline watches, one small file instead of a folder of thousands;
    paths below ``raw`` are relative to it, so that two machines write the same. Raises
    InputError where the files cannot be had.
    """
    (raw / INVENTORY).unlink(missing_ok=True)
    raw.mkdir(parents=True, exist_ok=True)
    dataset.acquire(raw, drop)
    files = list[Any]()
    for split, pairs in dataset.pairs(raw).items():
        for path in (path for pair in pairs for path in (pair.image, pair.label)):
            if not path.is_file():
                raise InputError(f"{path} is missing; complete the raw files of split {split}")
            shown = path.relative_to(raw) if path.is_relative_to(raw) else path
            files.append([split, shown.as_posix(), path.stat().st_size, sha256_of(path)])
    inventory = {"home": dataset.home, "licence": dataset.licence, "files": files}
    write_json(raw / INVENTORY, inventory)
    return inventory
