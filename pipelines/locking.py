"""One process at a time for the same work."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from segcore.errors import InputError


@contextmanager
def locked(path: Path, what: str) -> Iterator[None]:
    """Holds a lock file. Raises InputError that names the process which holds it already."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        opened = path.open("a+")
    except OSError as error:
        raise InputError(f"{path} cannot be made ({error.strerror}); allow it") from None
    with opened as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            holder = file.read().strip() or "unknown"
            message = f"{what} is already running (process {holder}); wait for it, or stop it"
            raise InputError(message) from None
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield
