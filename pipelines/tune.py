"""Searches the space that a row declares; writes the best values, the trials and pictures.

A row without ``search:`` passes at once. A search that was killed goes on where it was.
"""

from pathlib import Path
from shutil import rmtree
from typing import TYPE_CHECKING, Any

from pipelines.findings import show, write
from pipelines.identity import identity
from pipelines.project import Project
from pipelines.stage import run_stage
from segcore.findings import found, over_seeds
from segcore.row import Run
from segcore.search import BUDGET, Search, as_trial, under_seeds
from segcore.tables import Options

if TYPE_CHECKING:
    from pipelines.studies import Study


def main(key: str, project: Project) -> None:
    run, folder = project.row(key).recipe(), project.run(key)
    (folder / "search").mkdir(parents=True, exist_ok=True)
    if run.search is None:
        best = project.tuned_values(run.weights_of) if run.weights_of else {}
        write(folder, {"metric": "miou", "space": {}, "best": best, "trials": []})
        return
    result = _search(key, run, run.search, project)
    best = next(t["miou"] for t in result["trials"] if t["id"] == result["best_trial"])
    print(f"{key}: best of {len(result['trials'])} trials {best:.4f} with {result['best']}")
    if seeds := result.get("seeds"):
        low, high = seeds["interval"]
        print(f"{key}: under other seeds {seeds['mean']:.4f} [{low:.4f}, {high:.4f}]")


def _search(key: str, run: Run, search: Search, project: Project) -> dict[str, Any]:
    # not above: a row without a search needs neither torch nor ray
    from pipelines.cluster.requirements import check_requirements
    from pipelines.engines import engines
    from pipelines.publish import shards_for_workers
    from pipelines.studies import studied
    from segcore.shards import Manifest
    from segcore.targets import classes_of

    shards = shards_for_workers(run.dataset, project)
    manifest = Manifest.read(shards)
    trial = run.model_copy(update={"workers": search.workers})
    num_classes = len(classes_of(run, manifest.classes))
    timed_on = (run.device, run.threads) if search.latency else None
    known = [run.recipe_fingerprint(), search.model_dump(mode="json", exclude=BUDGET), timed_on]
    name = identity(f"tune-{key}", [*known, manifest.data_hash])
    with (
        engines(trial, num_classes, project) as (store, on_cluster),
        studied(store, name, key, run, manifest, project.root) as study,
    ):
        with on_cluster():
            # once: what has begun waits for nodes that are gone
            check_requirements(trial, search.concurrent or 1)
            result = _result(study, search, shards, project.work / name)
        again = as_trial(project.params.rows[key], search, result["best"])
        study.conclude(result, show(result, project.run(key) / "search", key, again))
    write(project.run(key), result)
    rmtree(project.work / name)
    return result


def _result(study: "Study", search: Search, shards: str, folder: Path) -> dict[str, Any]:
    trials, importance = _tried(study, search, "trial", shards, folder)
    result = found(search, trials, importance)
    if search.seeds:
        again = under_seeds(search, study.run.seed)
        trained, _ = _tried(study, again, "seed", shards, folder / "seeds", result["best"])
        result["seeds"] = over_seeds(trained)
    return result


def _tried(
    study: "Study",
    search: Search,
    kind: str,
    shards: str,
    folder: Path,
    best: Options | None = None,
) -> tuple[list[dict[str, Any]], dict[str, float]]:
    """The trials of a search around ``best``, and how important each key was."""
    from pipelines.cluster.searching import search_row
    from pipelines.progress import progress

    run = study.run.model_copy(update={"workers": search.workers, "search": search})
    values = as_trial(run.model_dump(mode="json"), search, best or {})
    with progress(f"tune {study.key}", search.most_trials, f"{kind}s") as bar:
        ledger = study.ledger(folder, kind, bar)
        importance = search_row(values, run, shards, folder, ledger.past, ledger.heard)
    return list(ledger.trials.values()), importance


if __name__ == "__main__":
    run_stage(main)
