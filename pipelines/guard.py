"""Notices a ``dvc.lock`` that was cut short and puts back the copy kept beside it.

DVC writes that file in place: killed meanwhile it leaves nothing, and then every dvc command
fails. Each stage keeps a copy before its work; ``make`` calls this before every ``dvc repro``.
"""

import sys
from pathlib import Path

import yaml

from segcore.files import written_whole

LOCK = "dvc.lock"
COPY = ".dvc.lock.copy"


def is_whole(path: Path) -> bool:
    try:
        content = yaml.load(path.read_text(), Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    except (OSError, yaml.YAMLError, UnicodeDecodeError):
        return False
    return isinstance(content, dict) and "schema" in content


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


def _write(path: Path, content: bytes) -> None:
    with written_whole(path) as aside:
        aside.write_bytes(content)


if __name__ == "__main__":
    guard(Path.cwd())
