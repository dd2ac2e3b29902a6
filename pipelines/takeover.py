"""A row with ``weights_of``: another row's weights under its own name, classes and protocol."""

from safetensors.torch import load_file

from pipelines.lineage import lineage
from pipelines.project import Project
from pipelines.registration import describe, register
from pipelines.tracking import Store
from segcore.files import hash_of, read_json, written_whole
from segcore.journal import METRICS
from segcore.model_files import WEIGHTS, save_model
from segcore.row import Run
from segcore.types import ClassTable


def take_over(
    key: str, run: Run, classes: ClassTable, origin: dict[str, str], project: Project, store: Store
) -> None:
    """Writes what *train* writes, without a training, and registers it as a version of the row."""
    folder, source = project.run(key), project.run(origin["row"])
    registered = read_json(source / "registered.json")
    save_model(folder, load_file(source / WEIGHTS), key, run, classes)
    with written_whole(folder / METRICS) as aside:
        aside.write_bytes((source / METRICS).read_bytes())
    miou, data_hash = registered["miou"], registered["data_hash"]
    tags = {"row": key, "kind": "weights_of", "data_hash": data_hash, **lineage(project.root)}
    config = {"row": key, **run.model_dump(mode="json")}
    name = f"{key} (weights of {origin['row']})"
    known = f"{key}-{hash_of([run.recipe_fingerprint(), origin])}"
    with store.run(run.dataset, name, config=config, tags=tags, key=known) as run_id:
        version = register(store, run_id, key, folder, miou, data_hash, origin)
        describe(store, key, version, folder, project.require_shards(run.dataset))
