"""From a row's model folder to a version in the registry, and back there if it was lost."""

from pathlib import Path
from typing import Any

from pipelines.tracking import MODEL_FILES, Store
from segcore.files import read_json, sha256_of, write_json


def register(
    store: Store, run_id: str, key: str, folder: Path, miou: float, data_hash: str
) -> dict[str, Any]:
    """Registers a row's model folder and writes ``registered.json``."""
    version = store.register(
        run_id,
        key,
        folder,
        tags={"row": key, "data_hash": data_hash, "score": repr(miou)},
        metrics={"validation_miou": miou},
    )
    facts = {
        "name": key,
        "version": version,
        "run_id": run_id,
        "miou": miou,
        "data_hash": data_hash,
        "files": {name: sha256_of(folder / name) for name in MODEL_FILES},
    }
    write_json(folder / "registered.json", facts)
    print(f"{key}: best validation mIoU {miou:.4f}, registered as version {version}")
    return facts


def held_version(store: Store, key: str, folder: Path) -> dict[str, Any]:
    """The version to score; registered again from the row's files where the registry lost it."""
    registered = read_json(folder / "registered.json")
    if store.has(key, registered["version"]):
        return registered
    print(f"{key}: the registry has lost version {registered['version']}; registering it again")
    config = read_json(folder / "config.json")
    tags = {"row": key, "kind": "restored", "data_hash": registered["data_hash"]}
    with store.run(config["dataset"], f"{key} (restored)", config=config, tags=tags) as run_id:
        return register(store, run_id, key, folder, registered["miou"], registered["data_hash"])
