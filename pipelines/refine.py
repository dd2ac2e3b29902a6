"""Corrects a row's labels at their boundaries by a row of SegFix, and scores both."""

from pathlib import Path
from shutil import rmtree
from typing import Any

from pipelines.progress import progress
from pipelines.project import Project
from pipelines.registration import held_version, origin_of
from pipelines.stage import run_stage
from pipelines.tracking import open_store
from segcore.corrector import Look, corrector, draw_gains
from segcore.files import write_json
from segcore.inference import predictor
from segcore.model_files import LoadedModel, load_model
from segcore.row import Run
from segcore.runs import device_of
from segcore.scoring import check_data, open_split
from segcore.segfix import Gain
from segcore.shards import Manifest, ShardReader


def main(key: str, project: Project) -> None:
    refinement = project.params.refinement(key)
    run, folder = project.row(key), project.run(key)
    pictures = folder / "refined"
    rmtree(pictures, ignore_errors=True)
    pictures.mkdir(parents=True)
    source, shards = project.trained(key, refinement.by), project.require_shards(run.dataset)
    model, manifest = load_model(folder), Manifest.read(shards)
    check_data(key, folder, model, manifest)
    look, splits = _look(run, model, source, refinement.step), dict[str, Any]()
    for split in run.splits:
        reader = open_split(run, shards, split, run.test_time)
        gain = _gain(f"refine {key} {split}", reader, look, len(model.classes))
        draw_gains(gain.per_image(), reader, look, model.classes, pictures / split)
        splits[split] = gain.as_dict()
    result = {
        **origin_of(key, folder),
        "refined_by": origin_of(refinement.by, source),
        "step": refinement.step,
        "dataset": run.dataset,
        "data_hash": manifest.data_hash,
        "splits": splits,
    }
    write_json(folder / "refined.json", result)
    _tell(key, splits, folder, project.root)


def _look(run: Run, model: LoadedModel, source: Path, step: int) -> Look:
    segfix, device = load_model(source), device_of(run)
    predict = predictor(run.test_time, model.classes.mirror)
    networks = model.network.to(device), segfix.network.to(device)
    return corrector(networks[0], predict, networks[1], step=step)


def _gain(what: str, reader: ShardReader, look: Look, num_classes: int) -> Gain:
    gain = Gain(num_classes)
    with progress(what, len(reader), "images") as bar:
        for index in range(len(reader)):
            name, image, labels = reader[index]
            gain.add(name, labels, *look(image))
            bar.advance()
    return gain


def _tell(key: str, splits: dict[str, Any], folder: Path, root: Path) -> None:
    """The row's run hears of the scores, the terminal of the first two."""
    store = open_store(root)
    run_id = held_version(store, key, folder).run_id
    for split, result in splits.items():
        figures = result["figures"]
        scores = {f"{split}.refined_{name}": each["after"] for name, each in figures.items()}
        store.log_metrics(run_id, scores)
        for name in ("miou", "boundary_f"):
            before, after = figures[name]["before"], figures[name]["after"]
            low, high = figures[name]["interval"]
            gain = f"gain {after - before:+.4f} (95 %: {low:+.4f} to {high:+.4f})"
            print(f"{key} {split}: {name} {before:.4f} -> {after:.4f}, {gain}")


if __name__ == "__main__":
    run_stage(main)
