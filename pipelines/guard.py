"""Notices a ``dvc.lock`` that was cut short and puts back the copy kept beside it.

DVC writes that file in place: killed meanwhile it leaves nothing, and then every dvc command
fails. Each stage keeps a copy before its work; ``make`` calls this before every ``dvc repro``. It
then reads the table as well: of an unknown method DVC says only that a file is missing.
"""

import sys
from pathlib import Path

import yaml

import segcore
from segcore.errors import InputError, suggestion
from segcore.files import written_whole
from segcore.params import read_params

LOCK = "dvc.lock"
COPY = ".dvc.lock.copy"


def is_whole(path: Path) -> bool:
    """Whether DVC would take the file: one cut between two lines is YAML still."""
    try:
        text = path.read_text()
        content = yaml.load(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    except (OSError, yaml.YAMLError, UnicodeDecodeError):
        return False
    if not text.endswith("\n") or not isinstance(content, dict) or "schema" not in content:
        return False
    stages = content.get("stages", {})
    return isinstance(stages, dict) and all(map(_is_stage, stages.values()))


def _is_stage(entry: object) -> bool:
    """Whether the entry of a stage was not cut where a command, a file or a table should follow."""
    if not isinstance(entry, dict) or "cmd" not in entry:
        return False
    tables = [entry["params"], *(entry["params"] or {}).values()] if "params" in entry else []
    lists = [entry[kind] for kind in ("deps", "outs") if kind in entry]
    files = [file for each in lists for file in each or [None]]
    whole = all(isinstance(file, dict) and "path" in file for file in files)
    return whole and all(isinstance(table, dict) for table in tables)


def guard(root: Path) -> None:
    """Keeps a copy of a whole ``dvc.lock``; replaces a broken one by the copy, and says so."""
    lock, copy = root / LOCK, root / COPY
    if not lock.exists():
        return
    if is_whole(lock):
        if not copy.exists() or copy.read_bytes() != lock.read_bytes():
            _write(copy, lock.read_bytes())
    elif is_whole(copy):
        _write(lock, copy.read_bytes())
        print(f"{LOCK} was cut short (a kill while DVC wrote it); restored from {COPY}")
    else:
        lock.rename(root / f"{LOCK}.broken")
        print(
            f"{LOCK} was cut short and there is no copy: set aside as {LOCK}.broken; "
            "dvc repro checks every stage again",
            file=sys.stderr,
        )


def check_table(path: Path) -> None:
    """Raises InputError on the first row that cannot be meant."""
    params, methods = read_params(path), Path(segcore.__file__).parent / "models"
    known = [file.stem for file in methods.glob("*.py") if file.stem != "__init__"]
    for name in params.rows:
        if (method := params.resolve(name).method) not in known:
            raise InputError(
                f"{path}: rows.{name}: no method {method!r}{suggestion(method, known)}"
            )


def _write(path: Path, content: bytes) -> None:
    with written_whole(path) as aside:
        aside.write_bytes(content)


if __name__ == "__main__":
    guard(Path.cwd())
    try:
        check_table(Path("params.yaml"))
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
