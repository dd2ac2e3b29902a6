"""A prepared dataset to a storage, under its content hash: ``<place>/<dataset>/<data_hash>/``.

What stands there is never changed, so that an address names bytes. The manifest goes last: where
it is, all is there.
"""

import shutil
from collections.abc import Iterator
from pathlib import Path

from segcore.errors import InputError
from segcore.files import sha256_of, written_whole
from segcore.shards import MANIFEST, Manifest
from segcore.storage import located, read_bytes, told

REMEDY = "run the stage `prepare` of this dataset again"


def address_of(manifest: Manifest, place: str) -> str:
    return f"{place.rstrip('/')}/{manifest.dataset}/{manifest.data_hash}"


def publish(folder: Path, address: str) -> Iterator[int]:
    """Yields first how many bytes are to go, then those of each file that went.

    Files that are there already do not go again, so a publishing that was cut off goes on; a whole
    manifest of the same shards stays, whatever else this one says.
    Raises InputError where the storage refuses, and on shards that differ from their manifest.
    """
    manifest = Manifest.read(str(folder))
    if _is_published(address, manifest):
        yield 0
        return
    shards = {
        folder / shard["name"]: shard["sha256"]
        for split in manifest.splits.values()
        for shard in split["shards"]
    }
    for path in shards:
        if not path.is_file():
            raise InputError(f"{path} is missing; {REMEDY}")
    absent = [path for path in shards if not _is_there(path, f"{address}/{path.name}")]
    yield sum(path.stat().st_size for path in absent)
    for path in absent:
        if sha256_of(path) != shards[path]:
            raise InputError(f"{path} is not what {MANIFEST} says of it; {REMEDY}")
        _put(path, f"{address}/{path.name}")
        yield path.stat().st_size
    _put(folder / MANIFEST, f"{address}/{MANIFEST}")


def take_manifest(place: str, folder: Path) -> Manifest:
    """Makes ``folder`` that of a dataset whose shards stay in ``place``: only its manifest is here.

    Raises InputError where no prepared dataset is there.
    """
    manifest = Manifest.read(place)
    shutil.rmtree(folder, ignore_errors=True)
    with written_whole(folder / MANIFEST) as aside:
        aside.write_bytes(read_bytes(f"{place.rstrip('/')}/{MANIFEST}"))
    return manifest


def _is_published(address: str, manifest: Manifest) -> bool:
    try:
        read_bytes(f"{address}/{MANIFEST}")  # a storage that refuses is told, not written to
    except FileNotFoundError:
        return False
    try:
        return Manifest.read(address).data_hash == manifest.data_hash
    except InputError:  # half of one, where the storage is a plain folder
        return False


def _is_there(path: Path, place: str) -> bool:
    filesystem, remote = located(place)
    try:
        with told(place, absence=FileNotFoundError):
            return filesystem.info(remote)["size"] == path.stat().st_size
    except FileNotFoundError:
        return False


def _put(path: Path, place: str) -> None:
    filesystem, remote = located(place)
    with told(place):
        filesystem.put_file(str(path), remote)
