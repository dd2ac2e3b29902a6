"""The name under which a training or a search goes on where it was: that of the same work alone."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

import segcore
from segcore.files import hash_of


def identity(what: str, known: Sequence[object]) -> str:
    """``what`` and a hash of all that decides its result: ``known`` and the library's source."""
    return f"{what}-{hash_of([*known, _code_hash()])}"


def _code_hash() -> str:
    digest = hashlib.sha256()
    for path in sorted(Path(segcore.__file__).parent.rglob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()
