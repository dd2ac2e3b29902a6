"""Scores a row's registered version on its splits; moves ``champion`` through the gate."""

from datetime import UTC, datetime
from pathlib import Path
from shutil import rmtree
from typing import Any

from pipelines.lineage import lineage
from pipelines.progress import progress
from pipelines.project import Project
from pipelines.registration import describe, held_version
from pipelines.stage import run_stage
from pipelines.tracking import Store, Version, open_store
from segcore.files import write_json
from segcore.gallery import draw_images
from segcore.inference import predictor
from segcore.model_files import load_model
from segcore.row import Run
from segcore.runs import device_of
from segcore.scoring import check_data, open_split, score_split
from segcore.shards import Manifest

Results = dict[str, Any]  # what ``scores.json`` says of each split


def main(key: str, project: Project) -> None:
    run, folder = project.row(key), project.run(key)
    store = open_store(project.root)
    version = held_version(store, key, folder)
    weights = store.fetch(key, version.number)
    model, shards = load_model(weights), project.require_shards(run.dataset)
    manifest = Manifest.read(shards)
    check_data(key, folder, model, manifest)
    results = _score(key, run, weights, shards)
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
        "splits": results.pop(""),
        "protocols": results,
    }
    write_json(folder / "scores.json", scores)
    _tell(store, version, scores, run.splits[0], folder, project.root)
    describe(store, key, version.number, folder, shards)


def _score(key: str, run: Run, weights: Path, shards: str) -> dict[str, Results]:
    """By protocol; the one that decides has no name."""
    results = dict[str, Results]()
    for name, how in {"": run.test_time, **run.protocols}.items():
        results[name] = {}
        for split in run.splits:
            what = f"evaluate {key} {name} {split}".replace("  ", " ")
            with progress(what, len(open_split(run, shards, split, how)), "images") as bar:
                results[name][split] = score_split(weights, run, shards, split, how, bar.advance)
    return results


def _tell(
    store: Store, version: Version, scores: Results, split: str, folder: Path, root: Path
) -> None:
    """The run and the registry hear of the scores; ``lineage.json`` says where they come from."""
    key, run_id = scores["row"], version.run_id
    named = dict(scores["splits"])
    for protocol, results in scores["protocols"].items():
        named |= {f"{protocol}.{split}": result for split, result in results.items()}
    for name, result in named.items():
        figures = {f"{name}.{figure}": result[figure] for figure in result["intervals"]}
        store.log_metrics(run_id, figures)
        rows = list(zip(scores["classes"], result["iou"], result["accuracy"], strict=True))
        store.log_table(run_id, f"{name}_classes", ["class", "iou", "accuracy"], rows)
    for picture in sorted((folder / "overlays").iterdir()):
        store.log_file(run_id, picture, "overlays")
    deciding, data_hash = scores["splits"][split], scores["data_hash"]
    miou, (low, high) = deciding["miou"], deciding["intervals"]["miou"]
    decision = store.promote(key, version.number, score=miou, data_hash=data_hash)
    trusted = f"{split} mIoU {miou:.4f} (95 %: {low:.4f} to {high:.4f})"
    print(f"{key} version {version.number}: {trusted}; champion: {decision.reason}")
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
