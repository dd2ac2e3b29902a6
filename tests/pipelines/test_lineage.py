"""Lineage: against git itself, and where there is no git at all."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from pipelines import lineage, processes


def git(root: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=Ada", "-c", "user.email=ada@example.org"]
    command = ["git", "-C", str(root), *identity, *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    git(tmp_path, "init", "-q")
    (tmp_path / "code.py").write_text("a = 1\n")
    (tmp_path / "dvc.lock").write_text("{}\n")
    git(tmp_path, "add", "-A")
    git(tmp_path, "commit", "-q", "-m", "first")
    git(tmp_path, "config", "user.name", "Ada Lovelace")
    return tmp_path


def test_the_commit_and_the_person_are_gits(checkout: Path):
    assert lineage.git_commit(checkout) == git(checkout, "rev-parse", "HEAD")
    assert lineage.who(checkout) == "Ada Lovelace"


def test_an_edit_and_a_new_file_make_it_dirty_and_the_pipelines_own_lock_does_not(checkout: Path):
    assert not lineage.git_dirty(checkout)
    (checkout / "dvc.lock").write_text('{"stages": {}}\n')
    assert not lineage.git_dirty(checkout)
    (checkout / "new.py").write_text("b = 2\n")
    assert lineage.git_dirty(checkout)
    (checkout / "new.py").unlink()
    (checkout / "code.py").write_text("a = 2\n")
    assert lineage.git_dirty(checkout)


def test_the_diff_makes_the_files_of_the_commit_those_of_now(checkout: Path):
    assert lineage.git_diff(checkout) == ""
    (checkout / "code.py").write_text("a = 2\n")
    (checkout / "new.py").write_text("b = 2\n")
    (checkout / "token.env").write_text("secret\n")
    (checkout / "dvc.lock").write_text('{"stages": {}}\n')
    before = git(checkout, "status", "--porcelain")
    diff = lineage.git_diff(checkout)
    assert "secret" not in diff
    assert "dvc.lock" not in diff
    assert git(checkout, "status", "--porcelain") == before  # its index is as it was
    git(checkout, "stash", "-q", "--include-untracked")
    assert (checkout / "code.py").read_text() == "a = 1\n"
    (checkout / "diff").write_text(diff)
    git(checkout, "apply", "diff")
    assert (checkout / "code.py").read_text() == "a = 2\n"
    assert (checkout / "new.py").read_text() == "b = 2\n"


def test_a_diff_that_is_data_is_cut(checkout: Path):
    (checkout / "code.py").write_text("x = 1\n" * 400_000)
    assert len(lineage.git_diff(checkout)) == lineage.LONGEST_DIFF


def test_locks_are_named_by_their_hash(checkout: Path):
    assert lineage.lineage(checkout)["locks"] == {
        "dvc.lock": "ca3d163bab055381827226140568f3bef7eaac187cebd76878e0b63e9e442356"  # of "{}\n"
    }


def test_without_a_repository_there_is_no_commit_and_the_login_name_stands_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", os.devnull)
    monkeypatch.setenv("GIT_CONFIG_SYSTEM", os.devnull)
    monkeypatch.setenv("USER", "grace")
    assert lineage.git_commit(tmp_path) is None
    assert not lineage.git_dirty(tmp_path)
    assert lineage.git_diff(tmp_path) == ""
    assert lineage.who(tmp_path) == "grace"


def test_without_git_itself_it_still_answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    found = lineage.lineage(tmp_path)
    assert found["commit"] is None
    assert found["hardware"]["gpus"] == []


def test_it_is_json_and_names_this_python_and_these_cores(tmp_path: Path):
    found = json.loads(json.dumps(lineage.lineage(tmp_path)))
    assert found["versions"]["python"] == ".".join(map(str, sys.version_info[:3]))
    assert found["versions"]["mlflow"].startswith("3.17")
    assert found["hardware"]["cores"] == len(os.sched_getaffinity(0))
    assert found["hardware"]["memory_gib"] > 0.5


def test_a_process_is_alive_until_it_ends_and_its_number_alone_is_not_it():
    script = "from pipelines.processes import this_process as t; print(t(), flush=True); input()"
    command = [sys.executable, "-c", script]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, cwd=ROOT) as child:
        assert child.stdout is not None
        name = child.stdout.readline().strip()
        assert processes.is_alive(name)
        assert not processes.is_alive(f"{name}9")  # same number, another start
        child.communicate("\n")
    assert not processes.is_alive(name)
    assert processes.is_alive(processes.this_process())
    assert processes.is_alive("another-host:1:1") is None  # cannot be known from here


def test_it_loads_no_torch_and_no_engine():
    script = "import sys, pipelines.lineage; print({'torch', 'mlflow', 'ray'} & set(sys.modules))"
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


ROOT = Path(__file__).parents[2]
