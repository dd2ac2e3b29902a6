"""From a row's model folder to a version in the registry, and back there if it was lost."""

from pathlib import Path

from pipelines.tracking import MODEL_FILES, Store, Version
from segcore.errors import InputError
from segcore.files import read_json, sha256_of, write_json
from segcore.model_card import model_card
from segcore.model_files import WEIGHTS


def origin_of(row: str, folder: Path) -> dict[str, str]:
    """The row that another one's weights come from, and the hash of those it has now."""
    return {"row": row, "weights": read_json(folder / "registered.json")["files"][WEIGHTS]}


def register(
    store: Store,
    run_id: str,
    key: str,
    folder: Path,
    miou: float,
    data_hash: str,
    origin: dict[str, str] | None = None,
) -> int:
    """Registers a row's model folder and writes ``registered.json``; returns the version."""
    version = _add(store, run_id, key, folder, miou, data_hash)
    facts = {
        "name": key,
        "version": version,
        "run_id": run_id,
        "miou": miou,
        "data_hash": data_hash,
        "files": {name: sha256_of(folder / name) for name in MODEL_FILES},
    }
    if origin:
        facts["origin"] = origin
    write_json(folder / "registered.json", facts)
    print(f"{key}: best validation mIoU {miou:.4f}, registered as version {version}")
    return version


def held_version(store: Store, key: str, folder: Path) -> Version:
    """The version that holds the row's weights; added again where the registry lost it.

    ``registered.json`` stays as training wrote it: it is that stage's output, and to write it
    here would make DVC train again. Raises InputError where the weights were made from those
    that another row had before it was trained again: no edge of DVC's graph tells.
    """
    _check_origin(key, folder)
    if held := store.holding(key, folder):
        return held
    registered, config = read_json(folder / "registered.json"), read_json(folder / "config.json")
    miou, data_hash = registered["miou"], registered["data_hash"]
    tags = {"row": key, "kind": "restored", "data_hash": data_hash}
    name, known = f"{key} (restored)", f"{key}-restored-{registered['files'][WEIGHTS][:10]}"
    with store.run(config["dataset"], name, config=config, tags=tags, key=known) as run_id:
        version = _add(store, run_id, key, folder, miou, data_hash)
    print(f"{key}: the registry had lost these weights; registered again as version {version}")
    return next(each for each in store.versions(key) if each.number == version)


def describe(store: Store, name: str, version: int, folder: Path, shards: str) -> None:
    """Gives a version the card that its row's folder makes by now; ``shards`` are its data."""
    store.describe(name, version, model_card(folder, shards))


def _check_origin(key: str, folder: Path) -> None:
    known = read_json(folder / "registered.json").get("origin")
    source = folder.parent / known["row"] if known else folder
    if not known or not (source / "registered.json").exists():
        return
    if known != origin_of(known["row"], source):
        raise InputError(
            f"row {key} was made from weights that {known['row']} no longer has; "
            f"run: dvc repro --force --single-item train@{key}"
        )


def _add(store: Store, run_id: str, key: str, folder: Path, miou: float, data_hash: str) -> int:
    return store.register(
        run_id,
        key,
        folder,
        tags={"row": key, "data_hash": data_hash, "score": repr(miou)},
        metrics={"validation_miou": miou},
    )
