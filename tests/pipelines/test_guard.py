"""``dvc.lock`` cut short, against the schema by which DVC itself refuses such a file."""

import re
import sys
from pathlib import Path

import pytest
import yaml
from dvc.schema import COMPILED_LOCKFILE_SCHEMA
from voluptuous import Invalid

from pipelines.guard import COPY, LOCK, check_table, guard, is_whole
from segcore.errors import InputError
from segcore.models import list_methods
from tests.pipelines.tiny_project import PLAIN, SEARCHED, TABLE, run, table, write_table

WHOLE = """\
schema: '2.0'
stages:
  download@tiny:
    cmd: python -m pipelines.download tiny
    params:
      params.yaml:
        datasets.tiny:
          form: shapes
    outs:
    - path: data/raw/tiny/inventory.json
      hash: md5
      md5: 0123456789abcdef0123456789abcdef
      size: 812
  report:
    cmd: python -m pipelines.report
    deps:
    - path: runs
      hash: md5
      md5: fedcba9876543210fedcba9876543210.dir
      size: 4242
      nfiles: 12
    - path: segcore/reports.py
      hash: md5
      md5: a0000000000000000000000000000000
      size: 9
"""


def dvc_takes(text: str) -> bool:
    try:
        COMPILED_LOCKFILE_SCHEMA(yaml.safe_load(text) if text else None)
    except (Invalid, yaml.YAMLError):
        return False
    return True


def test_what_dvc_refuses_is_not_whole_wherever_it_is_cut(tmp_path: Path):
    lock = tmp_path / LOCK
    refused = 0
    for length in range(len(WHOLE)):
        lock.write_text(WHOLE[:length])
        if not dvc_takes(WHOLE[:length]):
            refused += 1
            assert not is_whole(lock), f"cut after {length} characters: {WHOLE[:length][-40:]!r}"
    assert refused > 100
    lock.write_text(WHOLE)
    assert dvc_takes(WHOLE)
    assert is_whole(lock)


@pytest.mark.parametrize(
    "content",
    [b"", b"\0" * 4096, b"\xff\xfe broken", b"[1, 2]\n", b"schema: '2.0'\nstages:\n", b"a: [\n"],
)
def test_a_broken_lock_is_restored_and_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: bytes
):
    (tmp_path / LOCK).write_text(WHOLE)
    guard(tmp_path)
    assert capsys.readouterr() == ("", "")
    (tmp_path / LOCK).write_bytes(content)
    guard(tmp_path)
    assert (tmp_path / LOCK).read_text() == WHOLE
    assert f"{LOCK} was cut short" in (said := capsys.readouterr().out)
    assert f"restored from {COPY}" in said
    guard(tmp_path)
    assert capsys.readouterr() == ("", "")


def test_a_lock_without_stages_is_whole(tmp_path: Path):
    for text in ("schema: '2.0'\n", "schema: '2.0'\nstages: {}\n"):
        (tmp_path / LOCK).write_text(text)
        assert dvc_takes(text)
        assert is_whole(tmp_path / LOCK)


def test_without_a_copy_the_broken_lock_is_set_aside(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    (tmp_path / LOCK).write_text("")
    guard(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [f"{LOCK}.broken"]
    said = capsys.readouterr().err
    assert f"set aside as {LOCK}.broken; dvc repro checks every stage again" in said


def test_a_broken_copy_is_not_put_back(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    (tmp_path / LOCK).write_text(WHOLE[:50])
    (tmp_path / COPY).write_text(WHOLE[:60])
    guard(tmp_path)
    assert not (tmp_path / LOCK).exists()
    assert "there is no copy" in capsys.readouterr().err


def test_the_copy_follows_the_lock(tmp_path: Path):
    guard(tmp_path)
    assert list(tmp_path.iterdir()) == []  # nothing to keep before the first repro
    for text in (WHOLE, WHOLE.replace("4242", "4243")):
        (tmp_path / LOCK).write_text(text)
        guard(tmp_path)
        assert (tmp_path / COPY).read_text() == text
    written = (tmp_path / COPY).stat().st_mtime_ns
    guard(tmp_path)
    assert (tmp_path / COPY).stat().st_mtime_ns == written


def test_the_table_is_read_before_dvc_reads_it(tmp_path: Path):
    check_table(write_table(tmp_path, TABLE).table)
    wrong = {
        f"rows__{PLAIN}__method": ("pspnett", f"rows.{PLAIN}: no method 'pspnett'; did you mean"),
        f"rows__{PLAIN}__dataset": ("tinny", "no dataset 'tinny'; did you mean 'tiny'"),
        f"rows__{SEARCHED}__stepps": (3, "did you mean 'steps'"),
    }
    for path, (value, said) in wrong.items():
        project = write_table(tmp_path, table(**{path: value}))
        with pytest.raises(InputError, match=re.escape(said)):
            check_table(project.table)


def test_every_method_of_the_zoo_passes(tmp_path: Path):
    for method in list_methods():
        check_table(write_table(tmp_path, table(**{f"rows__{PLAIN}__method": method})).table)


def test_it_runs_as_a_command_before_dvc(tmp_path: Path):
    (tmp_path / LOCK).write_text("")
    (tmp_path / COPY).write_text(WHOLE)
    write_table(tmp_path, TABLE)
    outcome = run(tmp_path, sys.executable, "-m", "pipelines.guard")
    assert (outcome.status, outcome.err) == (0, "")
    assert "restored" in outcome.out
    assert (tmp_path / LOCK).read_text() == WHOLE
    write_table(tmp_path, table(rowz={}))
    outcome = run(tmp_path, sys.executable, "-m", "pipelines.guard")
    assert outcome == (2, "", "error: params.yaml: unknown key 'rowz'; did you mean 'rows'?\n")
