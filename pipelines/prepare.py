"""Raw files of a dataset -> Parquet shards and a manifest in ``data/shards/<dataset>``.

In processes of this machine, or as Ray tasks where RAY_ADDRESS names a cluster.
"""

import os
import shutil
from glob import escape

from pipelines.progress import progress
from pipelines.project import Project
from pipelines.stage import run_stage
from segcore.download import INVENTORY
from segcore.files import hash_of, read_json
from segcore.preparation import prepare
from segcore.preparation.audit import described
from segcore.preparation.processes import Mapper, in_processes
from segcore.publishing import take_manifest
from segcore.shards import MANIFEST

SHAPING = {"form", "options", "images_per_shard", "max_side", "image_format", "tile"}
"""The keys of a dataset's table that decide what its shards hold."""
HASH = "[0-9a-f]" * 10
"""What ``hash_of`` gives, for glob."""


def main(key: str, project: Project) -> None:
    from segcore.samples import illustrate  # not above: every process of the pool would import it

    if address := project.params.dataset(key).shards:
        take_manifest(address, project.shards(key))
        print(f"{key}: prepared already, in {address}")
        return
    dataset, table = project.dataset(key)
    inventory = read_json(project.raw(key) / INVENTORY)
    name = hash_of([table.model_dump(mode="json", include=SHAPING), inventory["files"]])
    work = project.work / f"prepare-{key}-{name}"
    done = prepare(
        key,
        dataset,
        project.raw(key),
        project.shards(key),
        work,
        table,
        mapper=where_to_work(),
        illustrate=illustrate,
    )
    with progress(f"prepare {key}", next(done), "images") as bar:
        for count in done:
            bar.advance(count)
    for left in project.work.glob(f"prepare-{escape(key)}-{HASH}"):
        shutil.rmtree(left, ignore_errors=True)  # of a run with other options that was cut short
    for line in described(read_json(project.shards(key) / MANIFEST)):
        print(f"{key} {line}")


def where_to_work() -> Mapper:
    if not os.environ.get("RAY_ADDRESS"):
        return in_processes
    from pipelines.cluster.preparing import on_cluster  # not above: one machine needs no ray

    return on_cluster


if __name__ == "__main__":
    run_stage(main)
