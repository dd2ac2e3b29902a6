"""A dataset goes to storage once, whole, under its content hash."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from segcore.errors import InputError
from segcore.publishing import address_of, publish, take_manifest
from segcore.shards import MANIFEST, Manifest, ShardReader

ADDRESS = "memory://store/there"


@pytest.fixture
def memory() -> Iterator[MemoryFileSystem]:
    filesystem = fsspec.filesystem("memory")
    yield filesystem
    filesystem.store.clear()


@pytest.fixture
def folder(tiny: str, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny, tmp_path / "shards"))


@pytest.fixture
def put(monkeypatch) -> list[str]:
    """The names that were uploaded."""
    names, plain = list[str](), MemoryFileSystem.put_file

    def counting(self, lpath, rpath, **options) -> None:
        names.append(Path(rpath).name)
        plain(self, lpath, rpath, **options)

    monkeypatch.setattr(MemoryFileSystem, "put_file", counting)
    return names


def shards_in(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.parquet"))


def test_the_address_is_the_content(folder):
    manifest = Manifest.read(str(folder))
    assert address_of(manifest, "s3://bucket/a/") == f"s3://bucket/a/tiny/{manifest.data_hash}"
    assert len(manifest.data_hash) == 64


def test_every_file_goes_once_and_the_manifest_last(folder, memory, put):
    shards = shards_in(folder)
    sizes = list(publish(folder, ADDRESS))
    assert sizes == [sum(sizes[1:]), *(path.stat().st_size for path in shards)]
    assert put == [*(path.name for path in shards), MANIFEST]
    for path in (*shards, folder / MANIFEST):
        assert memory.cat_file(f"/store/there/{path.name}") == path.read_bytes()
    put.clear()
    assert list(publish(folder, ADDRESS)) == [0]
    assert put == []


def test_what_a_cut_upload_left_is_completed(folder, memory, put):
    first, second, third = shards_in(folder)
    memory.pipe(f"/store/there/{first.name}", first.read_bytes())
    memory.pipe(f"/store/there/{second.name}", second.read_bytes()[:-1])
    with pytest.raises(InputError, match=r"manifest\.json is missing; check the address"):
        Manifest.read(ADDRESS)
    assert list(publish(folder, ADDRESS))[1:] == [p.stat().st_size for p in (second, third)]
    assert put == [second.name, third.name, MANIFEST]
    assert memory.cat_file(f"/store/there/{second.name}") == second.read_bytes()


def test_what_stands_there_is_never_changed(folder, memory, put):
    """The address is that of the shards: two manifests of them may say different things."""
    list(publish(folder, ADDRESS))
    before = memory.cat_file(f"/store/there/{MANIFEST}")
    put.clear()
    manifest = json.loads((folder / MANIFEST).read_text())
    (folder / MANIFEST).write_text(json.dumps(manifest | {"audit": "more"}))
    assert list(publish(folder, ADDRESS)) == [0]
    assert put == []
    assert memory.cat_file(f"/store/there/{MANIFEST}") == before


@pytest.mark.parametrize("left", [b"", b'{"dataset": "tiny"', b"{}", b"[]"])
def test_half_a_manifest_is_none(folder, memory, put, left):
    """What a killed process leaves in a storage that is a plain folder."""
    list(publish(folder, ADDRESS))
    memory.pipe(f"/store/there/{MANIFEST}", left)
    put.clear()
    assert list(publish(folder, ADDRESS)) == [0]
    assert put == [MANIFEST]
    assert memory.cat_file(f"/store/there/{MANIFEST}") == (folder / MANIFEST).read_bytes()


@pytest.mark.parametrize("how", ["flipped", "missing"])
def test_a_spoilt_shard_does_not_go(folder, memory, put, how):
    shard = shards_in(folder)[1]
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 1
    shard.write_bytes(content) if how == "flipped" else shard.unlink()
    sizes = publish(folder, ADDRESS)
    with pytest.raises(InputError, match=rf"{shard} is (not what manifest|missing)"):
        list(sizes)
    assert MANIFEST not in put
    assert shard.name not in put


def test_only_the_manifest_is_here_where_the_shards_stay_there(folder, memory, tmp_path):
    list(publish(folder, ADDRESS))
    taken = tmp_path / "taken"
    taken.mkdir()
    (taken / "old.parquet").write_text("of a former dataset")
    manifest = take_manifest(f"{ADDRESS}/", taken)
    assert [path.name for path in taken.iterdir()] == [MANIFEST]
    assert (taken / MANIFEST).read_bytes() == (folder / MANIFEST).read_bytes()
    assert manifest == Manifest.read(str(folder))


def test_what_is_not_there_leaves_the_old_manifest(folder, memory, tmp_path):
    with pytest.raises(InputError, match=r"memory://nothing/manifest\.json is missing"):
        take_manifest("memory://nothing", folder)
    assert len(shards_in(folder)) == 3


def test_a_spoilt_shard_there_is_told_by_its_reader(folder, memory, tmp_path, monkeypatch):
    monkeypatch.setenv("SEGCORE_CACHE", str(tmp_path / "cache"))
    list(publish(folder, ADDRESS))
    name = Manifest.read(ADDRESS).split("val")["shards"][0]["name"]
    content = bytearray(memory.cat_file(f"/store/there/{name}"))
    content[100] ^= 1
    memory.pipe(f"/store/there/{name}", bytes(content))
    with pytest.raises(InputError, match=rf"{name}: its sha256 is .*publish it again$"):
        ShardReader(ADDRESS, "val")[0]
