"""The files that datasets are published as: their names, where they lie, how they are checked."""

import errno
import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from segcore.errors import InputError

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
PAGES = (b"<!doctype html", b"<html")


@dataclass(frozen=True)
class Archive:
    """A file that holds part of a dataset: tar, tar.gz, zip (told by content), or a plain file."""

    name: str
    """Its file name, as a drop folder may hold it; ``*`` where the publisher makes it up."""
    urls: tuple[str, ...] = ()
    """Mirrors in order; none: a person must bring it."""
    size: int | None = None
    """Bytes, where they are published."""
    checksum: str = ""
    """``sha256:...``, ``sha1:...`` or ``md5:...``; empty where none is published."""
    strict: bool = True
    """False: a differing checksum or size is only warned about (archives that are re-issued)."""
    folder: str = "."
    """Where below the raw folder it is unpacked."""
    trees: tuple[str, ...] = ()
    """Paths that it unpacks to, below ``folder``; wildcards as in a shell. A drop folder that holds
    one of them needs no archive: every path that fits is taken over as it is."""
    package: str = ""
    """Cityscapes: its name in the account's list."""
    unpack: bool = True
    """False: a plain file (a list), stored as it is."""

    @property
    def title(self) -> str:
        """What a person is told of it."""
        return "the archive" if "*" in self.name else self.name

    @property
    def is_page(self) -> bool:
        """Whether a web page is what was asked for."""
        return self.name.endswith((".html", ".htm"))

    def difference(self, path: Path) -> str:
        """What a file has that differs from what is published; empty where nothing does."""
        if is_web_page(path) and not self.is_page:
            return "is a web page, not the file"
        size = path.stat().st_size
        if self.size is not None and size != self.size:
            return f"has {size} bytes, {self.size} are published"
        if not self.checksum:
            return ""
        algorithm, _, published = self.checksum.partition(":")
        with path.open("rb") as file:
            found = hashlib.file_digest(file, algorithm).hexdigest()
        same = found == published.lower()
        return "" if same else f"has {algorithm} {found}, {published} is published"


def is_web_page(path: Path) -> bool:
    """What a server sends for an expired link or a session that is not valid."""
    with path.open("rb") as file:
        return file.read(512).lstrip().lower().startswith(PAGES)


@contextmanager
def written_below(place: Path) -> Iterator[None]:
    """Around writing files. A full disk, or one that refuses, is an InputError with the place."""
    try:
        yield
    except OSError as error:
        if error.errno in FULL:
            remedy = "make room and run it again; what is complete is kept"
            raise InputError(f"no space left below {place}; {remedy}") from None
        where = error.filename or place
        raise InputError(f"{where} cannot be written: {error.strerror or error}") from None


@contextmanager
def read_from(place: Path) -> Iterator[None]:
    """Around reading what a person has: what cannot be read is an InputError with its name."""
    try:
        yield
    except OSError as error:
        where, why = error.filename or place, error.strerror or error
        raise InputError(f"{where} cannot be read: {why}; mend it, or remove it") from None
