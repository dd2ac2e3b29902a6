"""Files that are whole or absent: written aside, then renamed."""

import hashlib
import json
import os
import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from segcore.errors import InputError


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """Gives a path beside ``path`` to write to; it takes its name only if nothing was raised."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # not the process's number: containers that share a folder each count from one
    aside = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    try:
        yield aside
        with aside.open("rb") as written:
            os.fsync(written.fileno())
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)


def write_json(path: Path, value: Any) -> None:
    with written_whole(path) as aside:
        text = json.dumps(value, indent=1, ensure_ascii=False)
        aside.write_text(text + "\n", encoding="utf-8")


def read_json(path: Path) -> Any:
    """Raises InputError where the file is missing or cut short."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path} is missing; the stage that writes it has not run") from None
    except ValueError as error:  # no JSON, or no UTF-8
        remedy = "delete it and run its stage again"
        raise InputError(f"{path} is not whole ({error}); {remedy}") from None


class _Loader(yaml.SafeLoader):
    """YAML as people mean it: 1e-3 is a number, and a key that stands twice is an error."""

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        seen = set[str]()  # before "<<" brings in keys that the table may well say anew
        for key, _ in node.value:
            if key.value in seen and key.tag != "tag:yaml.org,2002:merge":
                problem = f"the key {key.value!r} stands twice; remove one"
                raise yaml.constructor.ConstructorError(None, None, problem, key.start_mark)
            seen.add(str(key.value))
        return node


# PyYAML reads YAML 1.1, whose exponents need a point before them and a sign; YAML 1.2's do not.
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"),
    list("-+.0123456789"),
)


def read_yaml(path: Path) -> Any:
    """Raises InputError where the file is no YAML or a table has the same key twice."""
    try:
        return yaml.load(path.read_text(encoding="utf-8"), _Loader)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is not valid YAML: {error}") from None


def sha256_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def hash_of(value: Any) -> str:
    """The first 10 hex digits of the sha256 of a JSON value, keys sorted."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:10]
