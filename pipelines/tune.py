"""Searches the space that a row declares; writes the best values, the trials and pictures.

A row without ``search:`` passes at once, with no trial and nothing tuned.
"""

import csv
from contextlib import ExitStack
from pathlib import Path
from shutil import rmtree
from typing import TYPE_CHECKING, Any

from pipelines.project import Project
from pipelines.stage import run_stage
from segcore.files import write_json, written_whole
from segcore.row import Run
from segcore.search import Search

if TYPE_CHECKING:
    from pipelines.studies import Study


def main(key: str, project: Project) -> None:
    run, folder = project.row(key), project.run(key)
    (folder / "search").mkdir(parents=True, exist_ok=True)
    if run.search is None:
        best = project.tuned_values(run.weights_of) if run.weights_of else {}
        _write(folder, {"metric": "miou", "space": {}, "best": best, "trials": []})
        return
    study = _search(key, run, run.search, project)
    trials = study.table()
    best = max((t for t in trials if t["miou"] is not None), key=lambda trial: trial["miou"])
    result = {
        "metric": "miou",
        "space": run.search.model_dump(mode="json")["space"],
        "best": best["values"],
        "best_trial": best["id"],
        "trials": trials,
    }
    for picture in _draw(result, folder / "search"):
        study.store.log_file(study.parent, picture)
    _write(folder, result)
    print(f"{key}: best of {len(trials)} trials {best['miou']:.4f} with {best['values']}")


def _write(folder: Path, result: dict[str, Any]) -> None:
    names = list(result["space"])
    with written_whole(folder / "search" / "trials.csv") as aside, aside.open("w") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(["trial", *names, "miou", "steps", "status"])
        for trial in result["trials"]:
            values = [trial["values"][name] for name in names]
            table.writerow([trial["id"], *values, trial["miou"], trial["steps"], trial["status"]])
    write_json(folder / "search.json", result)


def _search(key: str, run: Run, search: Search, project: Project) -> "Study":
    # not above: a row without a search needs neither torch nor ray
    from pipelines import cluster
    from pipelines.progress import progress
    from pipelines.publish import shards_for_workers
    from pipelines.studies import Study
    from pipelines.tracking import open_store
    from segcore.runs import check
    from segcore.shards import Manifest

    shards = shards_for_workers(run.dataset, project)
    manifest = Manifest.read(shards)
    check(run, len(manifest.classes))
    store = open_store(project.root)
    alone = run.model_copy(update={"workers": 1})  # a trial trains in one process
    values = alone.model_dump(mode="json") | {
        "steps": search.steps,
        "evaluate_every": search.evaluate_every,
        "save_every": search.steps,
        "search": None,
    }
    name = f"tune-{key}-{run.fingerprint()}"
    rmtree(project.work / name, ignore_errors=True)
    with ExitStack() as stack:
        stack.enter_context(cluster.cluster(alone, search.concurrent))
        steps = stack.enter_context(progress(f"tune {key}", search.trials, "trials"))
        study = Study(store, key, run, manifest, steps, project.root)
        stack.enter_context(study)
        cluster.search_row(values, alone, shards, name, project.work, study)
    rmtree(project.work / name, ignore_errors=True)
    return study


def _draw(result: dict[str, Any], folder: Path) -> list[Path]:
    from segcore.pictures import parallel_coordinates, search_history

    pictures = [folder / "history.png", folder / "parallel_coordinates.png"]
    search_history(result, pictures[0])
    parallel_coordinates(result, pictures[1])
    return pictures


if __name__ == "__main__":
    run_stage(main)
