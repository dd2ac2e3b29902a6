"""``storage`` and ``shards`` of the table: where prepared datasets go, and where they come from."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from pipelines import download, prepare, publish
from pipelines.project import Project
from pipelines.publish import shards_for_workers
from segcore.datasets import build_dataset
from segcore.datasets.shapes import Shapes
from segcore.errors import InputError
from segcore.shards import Manifest, ShardReader
from tests.pipelines.tiny_project import table, write_table

STORAGE = {"place": "memory://bucket/data"}


@pytest.fixture
def memory(monkeypatch) -> Iterator[MemoryFileSystem]:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    filesystem = fsspec.filesystem("memory")
    yield filesystem
    filesystem.store.clear()


def project_with(root: Path, tiny: str, **changes) -> Project:
    project = write_table(root, table(**changes))
    shutil.copytree(tiny, project.shards("tiny"), dirs_exist_ok=True)
    return project


def test_the_verb_publishes_once(tmp_path, tiny, memory, capsys):
    project = project_with(tmp_path, tiny, storage=STORAGE)
    address = f"memory://bucket/data/tiny/{Manifest.read(tiny).data_hash}"
    publish.main("tiny", project)
    told = capsys.readouterr().out.splitlines()
    assert told[0].startswith("publish tiny: 1/1 MB")
    assert told[-1] == f"tiny: {address}"
    assert Manifest.read(address) == Manifest.read(tiny)
    publish.main("tiny", project)
    assert capsys.readouterr().out == f"tiny: {address}\n"


def test_without_a_storage_the_verb_says_how_to_name_one(tmp_path, tiny, memory):
    project = project_with(tmp_path, tiny)
    with pytest.raises(InputError, match=r"params\.yaml names no storage .*storage: \{place: s3"):
        publish.main("tiny", project)


def test_an_unprepared_dataset_is_asked_for(tmp_path, memory):
    project = write_table(tmp_path, table(storage=STORAGE))
    with pytest.raises(InputError, match=r"run: dvc repro prepare@tiny$"):
        publish.main("tiny", project)


def test_workers_elsewhere_read_from_storage_and_those_here_from_the_folder(
    tmp_path, tiny, memory, monkeypatch
):
    project = project_with(tmp_path, tiny, storage=STORAGE)
    assert shards_for_workers("tiny", project) == str(project.shards("tiny"))
    assert not memory.store
    monkeypatch.setenv("RAY_ADDRESS", "ray://head:10001")
    address = shards_for_workers("tiny", project)
    assert address == f"memory://bucket/data/tiny/{Manifest.read(tiny).data_hash}"
    assert Manifest.read(address) == Manifest.read(tiny)
    shared = project_with(tmp_path / "shared", tiny)
    assert shards_for_workers("tiny", shared) == str(shared.shards("tiny")), "nodes share a disk"


def test_a_licence_may_forbid_to_pass_the_data_on(tmp_path, tiny, memory, monkeypatch):
    monkeypatch.setattr(Shapes, "redistribution", False)
    open_to_all = project_with(tmp_path, tiny, storage=STORAGE)
    with pytest.raises(InputError, match=r"tiny must not be passed on \(Apache-2\.0\).*private: t"):
        publish.main("tiny", open_to_all)
    assert not memory.store
    publish.main("tiny", project_with(tmp_path, tiny, storage=STORAGE | {"private": True}))
    assert len(memory.store) == 4


def test_the_facts_say_which_datasets_stay_private():
    forbidden = {"ade20k", "cityscapes", "lip", "mapillary_v1", "mapillary_v2"}
    assert not any(build_dataset(name, {}).redistribution for name in forbidden)
    assert build_dataset("shapes", {}).redistribution
    assert build_dataset("oxford_pet", {}).redistribution


def test_published_shards_need_no_raw_files(tmp_path, tiny, memory, capsys, monkeypatch):
    monkeypatch.setenv("SEGCORE_CACHE", str(tmp_path / "cache"))
    publish.main("tiny", project_with(tmp_path / "first", tiny, storage=STORAGE))
    address = f"memory://bucket/data/tiny/{Manifest.read(tiny).data_hash}"
    project = write_table(tmp_path / "second", table(datasets__tiny={"shards": address}))
    download.main("tiny", project)
    prepare.main("tiny", project)
    assert address in capsys.readouterr().out
    assert os.listdir(project.shards("tiny")) == ["manifest.json"]
    assert shards_for_workers("tiny", project) == project.require_shards("tiny") == address
    local, remote = ShardReader(tiny, "train"), ShardReader(address, "train")
    assert all(remote[n].image.equal(local[n].image) for n in range(8))


@pytest.mark.parametrize("where", [{"storage__place": None}, {"datasets__tiny": None}])
def test_a_credential_in_the_table_is_refused_and_not_shown(tmp_path, where):
    address = "s3://somebody:password-of-nobody@bucket/data"
    (key,) = where
    given = {"storage": {"place": address}} if "storage" in key else {key: {"shards": address}}
    project = write_table(tmp_path, table(**given))
    with pytest.raises(InputError, match=r"s3://\.\.\.: this address holds a user") as caught:
        project.require_shards("tiny")
    assert "password-of-nobody" not in str(caught.value)
    assert "somebody" not in str(caught.value)


def test_a_dataset_of_shards_says_nothing_else(tmp_path):
    entry = {"shards": "memory://a", "images_per_shard": 4}
    project = write_table(tmp_path, table(datasets__tiny=entry))
    with pytest.raises(InputError, match="'images_per_shard' says nothing beside shards"):
        project.require_shards("tiny")
