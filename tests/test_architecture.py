"""The sentences of CONTRIBUTING.md that a program can check: sizes, names, tables, the graph."""

import ast
import re
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
CODE = ("segcore", "pipelines", "benchmarks")

LINE, FUNCTION = 100, 40
FILE, METHOD, STAGE = 250, 150, 100
ENGINES = ("pipelines/cluster/", "pipelines/tracking/")

ALLOWED: dict[str, int] = {}
"""``path`` or ``path::function`` -> the lines it has today, where that is more than the limit.
An entry must state the exact length, so that it can only shrink, and leave when it is met."""

JUNK_DRAWERS = {"util", "utils", "helper", "helpers", "common", "misc", "core"}
JUNK_DRAWERS |= {"engine", "manager", "runner"}
ARXIV = re.compile(r"arXiv[: ]\d{4}\.\d{4,5}")
UNFINISHED = re.compile("|".join((r"\bTO" + r"DO\b", r"\bFIX" + r"ME\b", r"\bX" + r"XX\b")))
INDEX = re.compile(r"--(extra-)?index-url[ =]\S+|--find-links[ =]\S+|https?://[^\s\"')]+/simple\b")


@cache
def tracked() -> list[Path]:
    """Every file that git has, or would take with the next ``git add``."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    if listed.returncode:
        pytest.skip("not a git checkout")
    files = {ROOT / name for name in listed.stdout.split("\0") if name}
    return sorted(path for path in files if path.is_file() and not path.is_symlink())


def listed(found: Any) -> str:
    """All of it: pytest would cut a long list short."""
    return "\n".join(["", *(str(item) for item in found)])


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def code_files() -> list[Path]:
    return sorted(path for folder in CODE for path in (ROOT / folder).rglob("*.py"))


def method_files() -> list[Path]:
    return [path for path in sorted((ROOT / "segcore/models").glob("*.py")) if is_entry(path)]


def dataset_files() -> list[Path]:
    return [path for path in sorted((ROOT / "segcore/datasets").glob("*.py")) if is_entry(path)]


def is_entry(path: Path) -> bool:
    return path.name != "__init__.py"


def limit_of(path: Path) -> int:
    name = name_of(path)
    if name.startswith("segcore/models/"):
        return METHOD
    return STAGE if name.startswith("pipelines/") and not name.startswith(ENGINES) else FILE


def lengths() -> dict[str, tuple[int, int]]:
    """``path`` and ``path::function`` -> (lines, the most it may have)."""
    found = dict[str, tuple[int, int]]()
    for path in code_files():
        text = path.read_text()
        found[name_of(path)] = (text.count("\n"), limit_of(path))
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                lines = (node.end_lineno or node.lineno) - node.lineno + 1
                key = f"{name_of(path)}::{node.name}"
                found[key] = max(found.get(key, (0, 0)), (lines, FUNCTION))
    return found


def exported(path: Path) -> list[str]:
    """The names in ``__all__``, read without importing the file."""
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "__all__":
            return list(ast.literal_eval(node.value))
    return []


def class_names(path: Path) -> set[str]:
    return {
        node.name for node in ast.parse(path.read_text()).body if isinstance(node, ast.ClassDef)
    }


# --- sizes and names ---------------------------------------------------------------------------


def test_files_and_functions_are_short():
    too_long = [
        f"{name}: {lines} lines, at most {limit}"
        for name, (lines, limit) in lengths().items()
        if lines > limit and name not in ALLOWED
    ]
    assert not too_long, listed(too_long)


def test_allowances_only_shrink():
    found = lengths()
    for name, allowed in ALLOWED.items():
        assert name in found, f"{name} is gone; take it off the list"
        lines, limit = found[name]
        assert lines > limit, f"{name} needs no allowance any more; take it off the list"
        assert lines == allowed, f"{name} has {lines} lines; its allowance says {allowed}"


def test_lines_are_at_most_100_characters():
    python = [path for path in tracked() if path.suffix == ".py"]
    too_long = [
        f"{name_of(path)}:{number}"
        for path in python
        for number, line in enumerate(path.read_text().splitlines(), start=1)
        if len(line) > LINE
    ]
    assert not too_long, listed(too_long)


def test_no_file_is_a_junk_drawer():
    junk = [
        name_of(path)
        for path in tracked()
        if path.suffix == ".py" and words_of(path) & JUNK_DRAWERS
    ]
    assert not junk, listed(junk)


def words_of(path: Path) -> set[str]:
    return set(re.split(r"[/_]", name_of(path.with_suffix("")).lower()))


def test_every_module_says_what_it_is():
    silent = [
        name_of(path) for path in code_files() if not ast.get_docstring(ast.parse(path.read_text()))
    ]
    assert not silent, listed(silent)


def test_nothing_is_left_for_later():
    suffixes = {".py", ".yaml", ".yml", ".toml", ".jinja", ".csv", ".sh", ""}
    unfinished = [
        name_of(path)
        for path in tracked()
        if path.suffix in suffixes and UNFINISHED.search(path.read_text(errors="replace"))
    ]
    assert not unfinished, listed(unfinished)


def test_no_file_names_one_machine_or_one_package_index():
    here = str(ROOT) if len(ROOT.parts) > 2 else None
    found = list[str]()
    for path in tracked():
        if path == Path(__file__) or b"\0" in (content := path.read_bytes())[:8192]:
            continue
        for number, line in enumerate(content.decode(errors="replace").splitlines(), start=1):
            if INDEX.search(line) or (here and here in line):
                found.append(f"{name_of(path)}:{number}: {line.strip()[:120]}")
    assert not found, listed(found)


# --- methods and datasets ----------------------------------------------------------------------


@pytest.mark.parametrize("path", method_files(), ids=lambda path: path.stem)
def test_a_method_file_holds_one_method_and_names_its_paper(path: Path):
    names = exported(path)
    assert len(names) == 1
    assert set(names) <= class_names(path)
    assert ARXIV.search(ast.get_docstring(ast.parse(path.read_text())) or "")


@pytest.mark.parametrize("path", dataset_files(), ids=lambda path: path.stem)
def test_a_dataset_file_holds_one_dataset(path: Path):
    names = exported(path)
    assert len(names) == 1
    assert set(names) <= class_names(path)


def test_every_class_table_belongs_to_a_dataset_and_is_complete():
    for path in sorted((ROOT / "segcore/datasets").glob("*.csv")):
        assert path.with_suffix(".py").exists(), f"{name_of(path)} belongs to no dataset"
        header, *rows = path.read_text().splitlines()
        assert set(header.split(",")) >= {"train_id", "name", "red", "green", "blue", "raw_ids"}
        train_ids = sorted(
            {int(row.split(",")[header.split(",").index("train_id")]) for row in rows}
        )
        trained = [value for value in train_ids if value != 255]
        assert trained == list(range(len(trained))), f"{name_of(path)}: train ids have gaps"


# --- dvc.yaml <-> params.yaml <-> schema -------------------------------------------------------


@pytest.fixture(scope="module")
def params() -> Any:
    from segcore.params import read_params

    return read_params(ROOT / "params.yaml")


@pytest.fixture(scope="module")
def stages() -> dict[str, Any]:
    """Every stage of ``dvc.yaml`` as DVC itself resolves it, by name."""
    repository = pytest.importorskip("dvc.repo").Repo
    with repository(str(ROOT)) as opened:
        return {stage.addressing: stage for stage in opened.index.stages}


def test_every_row_resolves(params: Any):
    from segcore.datasets import list_datasets
    from segcore.models import list_methods

    assert params.rows
    for name in params.rows:
        run = params.resolve(name)
        assert run.method in list_methods()
        assert (params.dataset(run.dataset).form or run.dataset) in list_datasets()
        assert name.startswith(f"{run.method}-{run.backbone}-{run.dataset}")


def test_rows_and_datasets_have_their_stages(params: Any, stages: dict[str, Any]):
    for verb, keys in {"prepare": params.datasets, "evaluate": params.rows}.items():
        of_verb = {name.split("@", 1)[1] for name in stages if name.startswith(f"{verb}@")}
        assert of_verb == set(keys)


def test_every_stage_is_a_module_with_a_main(stages: dict[str, Any]):
    assert stages
    for name, stage in stages.items():
        found = re.match(r"python -m pipelines\.(\w+)( |$)", stage.cmd)
        assert found, f"{name}: {stage.cmd!r} does not run a stage of pipelines/"
        module = ROOT / "pipelines" / f"{found[1]}.py"
        assert module.exists(), f"{name} runs {name_of(module)}, which does not exist"
        functions = {getattr(node, "name", None) for node in ast.parse(module.read_text()).body}
        assert "main" in functions, f"{name_of(module)} has no main"
        assert name.split("@")[0] == found[1], f"stage {name} runs another verb, {found[1]}"


def test_what_a_stage_depends_on_exists_or_is_made_by_another(stages: dict[str, Any]):
    made = [Path(out.fs_path) for stage in stages.values() for out in stage.outs]
    for name, stage in stages.items():
        for dependency in stage.deps:
            path = Path(dependency.fs_path)
            is_made = any(path == out or out in path.parents or path in out.parents for out in made)
            assert path.exists() or is_made, f"{name}: {name_of(path)} is nobody's output"


def test_git_ignores_every_output_and_not_the_lock(stages: dict[str, Any]):
    outs = {name_of(Path(out.fs_path)) for stage in stages.values() for out in stage.outs}
    ignored = subprocess.run(
        ["git", "check-ignore", "--no-index", *sorted(outs), "dvc.lock"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    # dvc.lock: DVC refuses to work where git ignores it.
    assert set(ignored.stdout.split()) == outs
