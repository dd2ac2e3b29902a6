"""A prepared dataset to ``storage`` of the table, under its content hash, for other machines."""

import os
from pathlib import Path

from pipelines.processes import is_this_machine
from pipelines.progress import progress
from pipelines.project import Project
from pipelines.stage import run_stage
from segcore.errors import InputError
from segcore.publishing import address_of, publish
from segcore.shards import Manifest
from segcore.tables import StorageTable

MEGABYTE = 1_000_000


def main(key: str, project: Project) -> None:
    storage = project.params.storage
    if storage is None:
        where = "write it into the table, storage: {place: s3://bucket/folder}"
        raise InputError(f"{project.table} names no storage to publish to; {where}")
    print(f"{key}: {published(key, storage, project)}")


def shards_for_workers(key: str, project: Project) -> str:
    """The prepared dataset's address as workers of this row see it.

    On a cluster (RAY_ADDRESS) that is the table's storage, if it names one; this publishes the
    dataset there, once. Elsewhere, or on nodes that share a disk, the folder of the project.
    """
    shards, storage = project.require_shards(key), project.params.storage
    # several rows at once share a cluster of this machine alone, by its address on loopback
    if storage is None or is_this_machine(os.environ.get("RAY_ADDRESS")):
        return shards
    return published(key, storage, project)


def published(key: str, storage: StorageTable, project: Project) -> str:
    """Its address, when it is there. Raises InputError where a licence or the storage refuses."""
    shards = project.require_shards(key)
    if project.params.dataset(key).shards:  # it is somewhere else already
        return shards
    dataset, _ = project.dataset(key)
    if not dataset.redistribution and not storage.private:
        remedy = "if nobody reads it who may not have the data, say storage: {private: true}"
        terms = f"{key} must not be passed on ({dataset.licence})"
        raise InputError(f"{terms}, and {storage.place} may be open to others; {remedy}")
    address = address_of(Manifest.read(shards), storage.place)
    sizes = publish(Path(shards), address)
    total, done = next(sizes), 0
    if not total:
        list(sizes)
        return address
    with progress(f"publish {key}", -(-total // MEGABYTE), "MB") as bar:
        for size in sizes:
            before, done = done, done + size
            bar.advance(-(-done // MEGABYTE) - -(-before // MEGABYTE))
    return address


if __name__ == "__main__":
    run_stage(main)
