"""Scores a row's registered version on its splits; moves ``champion`` through the gate."""

from datetime import UTC, datetime
from pathlib import Path
from shutil import rmtree
from typing import Any

from pipelines.lineage import lineage
from pipelines.progress import progress
from pipelines.project import Project
from pipelines.registration import held_version
from pipelines.stage import run_stage
from pipelines.tracking import Store, Version, open_store
from segcore.batches import evaluation_batches
from segcore.errors import InputError
from segcore.evaluation import Tally, evaluate_images
from segcore.files import write_json
from segcore.gallery import draw_extremes
from segcore.inference import predictor
from segcore.row import Run
from segcore.runs import LoadedModel, device_of, load_model
from segcore.shards import Manifest, ShardReader


def main(key: str, project: Project) -> None:
    run, folder = project.row(key), project.run(key)
    store = open_store(project.root)
    version = held_version(store, key, folder)
    model = load_model(store.fetch(key, version.number))
    shards = project.require_shards(run.dataset)
    manifest = Manifest.read(shards)
    if model.classes != manifest.classes:
        raise InputError(
            f"model {key} version {version.number} was trained on other classes than "
            f"{shards} holds; run: dvc repro train@{key}"
        )
    model.network.to(device_of(run))
    overlays = folder / "overlays"
    rmtree(overlays, ignore_errors=True)
    splits = {split: _score(key, run, model, shards, split, overlays) for split in run.splits}
    scores = {
        "row": key,
        "dataset": run.dataset,
        "data_hash": manifest.data_hash,
        "classes": list(manifest.classes.names),
        "colours": [list(colour) for colour in manifest.classes.colours],
        "splits": splits,
    }
    write_json(folder / "scores.json", scores)
    _tell(store, version, scores, run.splits[0], folder, project.root)


def _score(
    key: str, run: Run, model: LoadedModel, shards: str, split: str, overlays: Path
) -> dict[str, Any]:
    reader, tally = ShardReader(shards, split), Tally(len(model.classes))
    batches, predict = evaluation_batches(reader), predictor(run.test_time, model.classes.mirror)
    with progress(f"evaluate {key} {split}", len(reader), "images") as bar:
        for result in evaluate_images(model.network, batches, len(model.classes), predict):
            tally.add(result)
            bar.advance()
    draw_extremes(model, reader, tally.per_image, overlays / split, predict)
    scores = tally.scores.as_dict(model.classes.names)
    return {"images": len(reader), **scores, "per_image": tally.per_image}


def _tell(
    store: Store,
    version: Version,
    scores: dict[str, Any],
    split: str,
    folder: Path,
    root: Path,
) -> None:
    """The run and the registry hear of the scores; ``lineage.json`` says where they come from."""
    key, run_id = scores["row"], version.run_id
    for name, result in scores["splits"].items():
        figures = ("miou", "pixel_accuracy", "mean_accuracy")
        store.log_metrics(run_id, {f"{name}.{figure}": result[figure] for figure in figures})
        rows = list(zip(scores["classes"], result["iou"], result["accuracy"], strict=True))
        store.log_table(run_id, f"{name}_classes", ["class", "iou", "accuracy"], rows)
    for picture in sorted((folder / "overlays").iterdir()):
        store.log_file(run_id, picture, "overlays")
    miou, data_hash = scores["splits"][split]["miou"], scores["data_hash"]
    decision = store.promote(key, version.number, score=miou, data_hash=data_hash)
    print(f"{key} version {version.number}: {split} mIoU {miou:.4f}; champion: {decision.reason}")
    facts = {
        "model": key,
        "version": str(version.number),
        "aliases": store.aliases(key, version.number),
        "run_id": run_id,
        "data_hash": data_hash,
        "evaluated_at": datetime.now(UTC).isoformat(timespec="seconds"),
        **lineage(root),
    }
    write_json(folder / "lineage.json", facts)


if __name__ == "__main__":
    run_stage(main)
