"""Trains a row on its workers and registers the best weights as a new model version."""

from contextlib import ExitStack
from pathlib import Path
from shutil import rmtree

from pipelines.cluster.training import train_row
from pipelines.cluster.watchdog import written_stacks
from pipelines.engines import engines, store_for
from pipelines.identity import identity
from pipelines.lineage import lineage
from pipelines.project import Project
from pipelines.publish import shards_for_workers
from pipelines.registration import describe, origin_of, register
from pipelines.stage import run_stage
from pipelines.takeover import take_over
from pipelines.tracking import Mirror, Store
from pipelines.watching import watched
from segcore.checkpoints import Checkpoint
from segcore.files import written_whole
from segcore.journal import METRICS
from segcore.model_files import save_kept, save_model
from segcore.row import Run
from segcore.shards import Manifest
from segcore.targets import classes_of
from segcore.types import ClassTable


def main(key: str, project: Project) -> None:
    run = project.tuned_row(key).recipe()
    shards = shards_for_workers(run.dataset, project)
    manifest = Manifest.read(shards)
    classes = classes_of(run, manifest.classes)
    other = run.weights_of or run.init
    origin = origin_of(other, project.trained(key, other)) if other else None
    if run.weights_of and origin:
        take_over(key, run, classes, origin, project, store_for(run, len(classes), project))
        return
    # Not of the machines: with other workers or threads the same training goes on.
    name = identity(key, [run.recipe_fingerprint(), manifest.data_hash, origin])
    tags = {"row": key, "kind": "training", "data_hash": manifest.data_hash}
    config = {"row": key, **run.model_dump(mode="json")}
    with (
        engines(run, len(classes), project) as (store, on_cluster),
        store.run(
            run.dataset, key, config=config, tags={**tags, **lineage(project.root)}, key=name
        ) as run_id,
    ):
        store.log_dataset(run_id, run.dataset, manifest.data_hash, shards, "training")
        with on_cluster():
            mirror, checkpoint = _train(run, key, shards, name, project, store, run_id)
        store.await_back()  # nothing is written yet
        store.insist(mirror.close())
        best = Checkpoint.read(checkpoint)
        _write(best, project.work / name / METRICS, project.run(key), key, run, classes)
        miou, data_hash = best.best_miou, manifest.data_hash
        version = register(store, run_id, key, project.run(key), miou, data_hash, origin)
        describe(store, key, version, project.run(key), shards)
    rmtree(project.work / name)


def _train(
    run: Run, key: str, shards: str, name: str, project: Project, store: Store, run_id: str
) -> tuple[Mirror, Path]:
    """The copy of its journal in MLflow, which may have a rest to send, and the last checkpoint."""
    with ExitStack() as stack:
        stack.enter_context(store.system_metrics(run_id))
        journal = project.work / name / METRICS
        mirror = stack.enter_context(watched(key, run, journal, store, run_id))
        stack.callback(_keep_stacks, project.work / name, store, run_id)
        initial = project.run(run.init) if run.init else None
        return mirror, train_row(run, shards, name, project.work, initial)


def _write(
    best: Checkpoint, journal: Path, folder: Path, key: str, run: Run, classes: ClassTable
) -> None:
    assert best.best_weights is not None, "the last step is always evaluated"
    save_model(folder, best.best_weights, key, run, classes)
    if run.keep_best > 1:
        save_kept(folder / "kept", best.kept)
    with written_whole(folder / METRICS) as aside:
        aside.write_bytes(journal.read_bytes())


def _keep_stacks(folder: Path, store: Store, run_id: str) -> None:
    for path in written_stacks(folder):
        store.log_file(run_id, path, "stacks")


if __name__ == "__main__":
    run_stage(main)
