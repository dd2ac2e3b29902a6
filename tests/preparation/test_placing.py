"""The end of prepare: the folder takes its place, on whatever disk that is."""

import errno
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import pytest

from pipelines.project import Project
from segcore.datasets import Dataset, build_dataset
from segcore.errors import InputError
from segcore.files import hash_of
from segcore.preparation import prepare
from segcore.preparation import survey as preparation
from segcore.shards import Manifest
from segcore.tables import DatasetTable
from tests.pipelines.tiny_project import TABLE, main_of, write_table

TINY = DatasetTable(images_per_shard=2)
NAMES = ["manifest.json", "train-00000-of-00002.parquet", "train-00001-of-00002.parquet"]
NAMES += ["val-00000-of-00001.parquet"]


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    made = build_dataset("shapes", {"train": 4, "val": 2, "height": 32, "width": 32})
    made.acquire(tmp_path / "raw", tmp_path)
    return made


@pytest.fixture
def far() -> Iterator[Path]:
    """A folder on another disk than the temporary ones."""
    folder = Path(mkdtemp(dir="/dev/shm" if Path("/dev/shm").is_dir() else None))
    yield folder
    shutil.rmtree(folder)


def prepared(dataset: Dataset, folder: Path, out: Path, work: Path) -> list[int]:
    return list(prepare("toy", dataset, folder / "raw", out, work, TINY))


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


@pytest.mark.parametrize("where", ["out", "work"])
def test_another_disk(dataset, tmp_path, far, where):
    if far.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("this machine has one disk only")
    places = {"out": tmp_path / "out", "work": tmp_path / "work"} | {where: far / "there"}
    places["out"].mkdir()
    (places["out"] / "old.parquet").write_text("of a former run")
    assert prepared(dataset, tmp_path, **places) == [6, 2, 2, 2]
    assert sorted(contents(places["out"])) == NAMES
    prepared(dataset, tmp_path, tmp_path / "near", tmp_path / "work")
    assert contents(places["out"]) == contents(tmp_path / "near")
    assert not places["work"].exists()
    assert [path.name for path in far.iterdir()] == (["there"] if where == "out" else [])


def test_an_output_that_is_a_link_stays_one(dataset, tmp_path, far):
    (tmp_path / "out").symlink_to(far / "mounted")
    (far / "mounted").mkdir()
    prepared(dataset, tmp_path, tmp_path / "out", tmp_path / "work")
    assert (tmp_path / "out").is_symlink()
    assert sorted(contents(far / "mounted")) == NAMES


def failing(monkeypatch: pytest.MonkeyPatch, method: str, number: int) -> None:
    plain = getattr(Path, method)

    def fails(self: Path, other: Path) -> Any:
        if ".out.new" in f"{self}{other}":
            raise OSError(number, os.strerror(number))
        return plain(self, other)

    monkeypatch.setattr(Path, method, fails)


def test_a_disk_without_links(dataset, tmp_path, monkeypatch):
    failing(monkeypatch, "hardlink_to", errno.EPERM)
    prepared(dataset, tmp_path, tmp_path / "out", tmp_path / "work")
    monkeypatch.undo()
    prepared(dataset, tmp_path, tmp_path / "linked", tmp_path / "work")
    assert contents(tmp_path / "out") == contents(tmp_path / "linked")


@pytest.mark.parametrize(
    ("method", "number", "said"),
    [
        ("mkdir", errno.EACCES, "cannot be written: Permission denied"),
        ("rename", errno.EBUSY, "cannot be written: Device or resource busy"),
        ("copyfile", errno.ENOSPC, "no space left below"),
    ],
)
def test_a_failure_at_the_end_costs_nothing(dataset, tmp_path, monkeypatch, method, number, said):
    """The old output and every finished shard are still there, and the next run takes them."""
    out, work = tmp_path / "out", tmp_path / "work"
    out.mkdir()
    (out / "old.parquet").write_text("of a former run")

    def fails(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    if method == "copyfile":
        failing(monkeypatch, "hardlink_to", errno.EXDEV)
        monkeypatch.setattr(shutil, method, fails)
    else:
        plain = getattr(Path, method)
        monkeypatch.setattr(
            Path,
            method,
            lambda self, *rest, **options: (
                fails() if self in (out, tmp_path / ".out.new") else plain(self, *rest, **options)
            ),
        )
    with pytest.raises(InputError, match=said):
        prepared(dataset, tmp_path, out, work)
    monkeypatch.undo()
    assert contents(out) == {"old.parquet": b"of a former run"}
    assert not list(tmp_path.glob(".out.*"))
    monkeypatch.delattr("segcore.preparation.tasks.write_shard")
    assert prepared(dataset, tmp_path, out, work) == [6, 2, 2, 2]
    assert sorted(contents(out)) == NAMES


@pytest.mark.parametrize("step", range(8))
def test_killed_at_the_end(dataset, tmp_path, monkeypatch, step):
    """At every step there is one whole folder or none, and the next run goes on."""
    out, work, steps = tmp_path / "out", tmp_path / "work", list[str]()
    out.mkdir()
    shutil.copytree(tmp_path / "raw", out / "raw")

    def counted(name: str) -> Any:
        plain = getattr(Path, name)

        def call(self: Path, *rest: Any, **options: Any) -> Any:
            if self.name.startswith(".out") or ".out" in f"{self.parent.name}" or self == out:
                steps.append(name)
                if len(steps) == step + 1:
                    raise KeyboardInterrupt
            return plain(self, *rest, **options)

        return call

    for name in ("mkdir", "hardlink_to", "rename"):
        monkeypatch.setattr(Path, name, counted(name))
    try:
        prepared(dataset, tmp_path, out, work)
        assert step == 7
    except KeyboardInterrupt:
        pass
    monkeypatch.undo()
    left = sorted(path.name for path in out.iterdir()) if out.exists() else []
    assert left in (["raw"], NAMES, [])
    assert steps[:7] == ["mkdir", *["hardlink_to"] * 4, "rename", "rename"][: step + 1]
    prepared(dataset, tmp_path, out, work)
    assert sorted(contents(out)) == NAMES
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "raw"]


def test_what_runs_with_other_options_left_goes(tmp_path):
    project: Project = write_table(tmp_path, TABLE)
    main_of("download")("tiny", project)
    left = project.work / f"prepare-tiny-{hash_of('other options')}"
    others = [f"prepare-tiny-big-{hash_of(1)}", f"tune-tiny-{hash_of(1)}", "prepare-tiny-mine"]
    for name in (left.name, *others):
        (project.work / name).mkdir(parents=True)
        (project.work / name / "train-00000-of-00001.parquet").write_text("half")
    main_of("prepare")("tiny", project)
    assert sorted(path.name for path in project.work.iterdir()) == sorted(others)
    assert Manifest.read(str(project.shards("tiny"))).split("train")["images"] == 8


def test_the_survey_links(dataset, tmp_path, monkeypatch):
    """A shard is not written twice where its disk can hold it under a second name."""
    monkeypatch.setattr(preparation.shutil, "copyfile", None)
    prepared(dataset, tmp_path, tmp_path / "out", tmp_path / "work")
    assert {path.stat().st_nlink for path in (tmp_path / "out").iterdir()} == {1}
