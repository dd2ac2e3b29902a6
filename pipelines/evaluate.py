"""Scores a row's registered version on its splits; moves ``champion`` through the gate."""

from pathlib import Path
from shutil import rmtree
from typing import Any

from pipelines.progress import progress
from pipelines.project import Project
from pipelines.registration import describe, held_version
from pipelines.stage import run_stage
from pipelines.telling import tell
from pipelines.tracking import open_store
from segcore.errors import InputError, suggestion
from segcore.files import write_json
from segcore.gallery import draw_images
from segcore.inference import predictor
from segcore.model_files import load_model
from segcore.protocols import looked_at
from segcore.row import Run
from segcore.runs import device_of
from segcore.scoring import check_data, open_split, score_split
from segcore.shards import Manifest
from segcore.tables import TestTime

Results = dict[str, Any]  # what ``scores.json`` says of each split


def main(key: str, project: Project) -> None:
    run, folder = project.row(key), project.run(key)
    store = open_store(project.root)
    version = held_version(store, key, folder)
    weights = store.fetch(key, version.number)
    model, shards = load_model(weights), project.require_shards(run.dataset)
    manifest = Manifest.read(shards)
    check_data(key, folder, model, manifest)
    _check_splits(key, run, manifest)
    results = {
        name: _score(key, name, how, run, weights, shards) for name, how in run.looks.items()
    }
    overlays, predict = folder / "overlays", predictor(run.test_time, model.classes.mirror)
    rmtree(overlays, ignore_errors=True)
    model.network.to(device_of(run))
    for split in run.splits:
        reader = open_split(run, shards, split, run.test_time)
        draw_images(model, reader, results[""][split]["per_image"], overlays / split, predict)
    scores = {
        "row": key,
        "dataset": run.dataset,
        "data_hash": manifest.data_hash,
        "classes": list(model.classes.names),
        "colours": [list(colour) for colour in model.classes.colours],
        "published": run.published and run.published.model_dump(mode="json"),
        "looked_at": looked_at(run),
        "splits": results.pop(""),
        "protocols": results,
    }
    write_json(folder / "scores.json", scores)
    tell(store, version, scores, run.splits[0], folder)
    describe(store, key, version.number, folder, shards)


def _check_splits(key: str, run: Run, manifest: Manifest) -> None:
    for split in run.splits:
        if split not in manifest.splits:
            raise InputError(
                f"row {key}: {run.dataset} has no labels of a split {split!r}"
                f"{suggestion(split, manifest.splits)}; where only a test server has them: "
                f"python -m pipelines.submit {key} FOLDER-OF-IMAGES"
            )


def _score(key: str, name: str, how: TestTime, run: Run, weights: Path, shards: str) -> Results:
    """By split, under one protocol; the one that decides has no name."""
    results: Results = {}
    for split in run.splits:
        what = f"evaluate {key} {name} {split}".replace("  ", " ")
        with progress(what, len(open_split(run, shards, split, how)), "images") as bar:
            results[split] = score_split(weights, run, shards, split, how, bar.advance)
    return results


if __name__ == "__main__":
    run_stage(main)
