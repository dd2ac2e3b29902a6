"""Raw files of a dataset -> Parquet shards and a manifest in ``data/shards/<dataset>``."""

from pipelines.progress import progress
from pipelines.project import Project
from pipelines.stage import run_stage
from segcore.download import INVENTORY
from segcore.files import hash_of, read_json
from segcore.preparation import prepare
from segcore.shards import Manifest


def main(key: str, project: Project) -> None:
    dataset, table = project.dataset(key)
    inventory = read_json(project.raw(key) / INVENTORY)
    name = hash_of([table.model_dump(mode="json", exclude={"recipe"}), inventory["files"]])
    done = prepare(
        key,
        dataset,
        project.raw(key),
        project.shards(key),
        project.work / f"prepare-{key}-{name}",
        images_per_shard=table.images_per_shard,
    )
    with progress(f"prepare {key}", next(done), "images") as bar:
        for count in done:
            bar.advance(count)
    manifest = Manifest.read(str(project.shards(key)))
    for split, facts in manifest.splits.items():
        absent = [n for n, c in zip(manifest.classes.names, facts["pixels"], strict=True) if not c]
        note = f"; absent: {', '.join(absent)}" if absent else ""
        print(f"{key} {split}: {facts['images']} images, {len(facts['shards'])} shard(s){note}")


if __name__ == "__main__":
    run_stage(main)
