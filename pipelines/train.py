"""Trains a row on its workers and registers the best weights as a new model version."""

import hashlib
from contextlib import ExitStack
from pathlib import Path
from shutil import rmtree

import segcore
from pipelines.cluster.connection import cluster
from pipelines.cluster.training import train_row
from pipelines.cluster.watchdog import written_stacks
from pipelines.lineage import lineage
from pipelines.project import Project
from pipelines.publish import shards_for_workers
from pipelines.registration import describe, origin_of, register
from pipelines.stage import run_stage
from pipelines.takeover import take_over
from pipelines.tracking import Store, open_store
from pipelines.watching import watched
from segcore.checkpoints import Checkpoint
from segcore.files import hash_of, written_whole
from segcore.journal import METRICS
from segcore.model_files import save_kept, save_model
from segcore.row import Run
from segcore.runs import check
from segcore.shards import Manifest
from segcore.targets import classes_of


def main(key: str, project: Project) -> None:
    run = project.tuned_row(key).recipe()
    shards = shards_for_workers(run.dataset, project)
    manifest = Manifest.read(shards)
    classes = classes_of(run, manifest.classes)
    check(run, len(classes))
    other = run.weights_of or run.init
    origin = origin_of(other, project.trained(key, other)) if other else None
    store = open_store(project.root)
    if run.weights_of and origin:
        take_over(key, run, classes, origin, project, store)
        return
    # Not of the machines: with other workers or threads the same training goes on.
    known = [run.recipe_fingerprint(), manifest.data_hash, code_hash(), origin]
    name = f"{key}-{hash_of(known)}"
    tags = {"row": key, "kind": "training", "data_hash": manifest.data_hash}
    config = {"row": key, **run.model_dump(mode="json")}
    with store.run(
        run.dataset, key, config=config, tags={**tags, **lineage(project.root)}, key=name
    ) as run_id:
        store.log_dataset(run_id, run.dataset, manifest.data_hash, shards, "training")
        best = _train(run, key, shards, name, project, store, run_id)
        assert best.best_weights is not None, "the last step is always evaluated"
        folder = project.run(key)
        save_model(folder, best.best_weights, key, run, classes)
        if run.keep_best > 1:
            save_kept(folder / "kept", best.kept)
        with written_whole(folder / METRICS) as aside:
            aside.write_bytes((project.work / name / METRICS).read_bytes())
        miou, data_hash = best.best_miou, manifest.data_hash
        version = register(store, run_id, key, folder, miou, data_hash, origin)
        describe(store, key, version, folder, shards)
    rmtree(project.work / name)


def _train(
    run: Run, key: str, shards: str, name: str, project: Project, store: Store, run_id: str
) -> Checkpoint:
    with ExitStack() as stack:
        stack.enter_context(cluster(run))
        stack.enter_context(store.system_metrics(run_id))
        journal = project.work / name / METRICS
        mirror = stack.enter_context(watched(key, run, journal, store, run_id))
        stack.callback(_keep_stacks, project.work / name, store, run_id)
        initial = project.run(run.init) if run.init else None
        checkpoint = train_row(run, shards, name, project.work, initial)
    store.await_back()  # no worker waits for that, and nothing is written yet
    store.insist(mirror.close())
    return Checkpoint.read(checkpoint)


def _keep_stacks(folder: Path, store: Store, run_id: str) -> None:
    for path in written_stacks(folder):
        store.log_file(run_id, path, "stacks")


def code_hash() -> str:
    """Of the library's source: a training that was cut off goes on only under the same code."""
    digest = hashlib.sha256()
    for path in sorted(Path(segcore.__file__).parent.rglob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()


if __name__ == "__main__":
    run_stage(main)
