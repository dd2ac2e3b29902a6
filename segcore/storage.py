"""Places that other machines reach too: ``s3://``, ``memory://``, whatever fsspec knows.

Who may read them is settled where the storage's own library looks for it (environment, profile,
role of the machine), never in an address. What such a library raises is told by its kind alone,
since its text may hold a key, a token or a signed address.
"""

import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import fsspec
from fsspec.spec import AbstractFileSystem

from segcore.errors import InputError
from segcore.tables import CREDENTIALS, without_credential


def located(place: str) -> tuple[AbstractFileSystem, str]:
    """The file system of an address and the path in it; nothing is asked of the storage yet.

    Raises InputError on an address that holds a credential, of an unknown kind, or of a kind
    whose package is not installed.
    """
    without_credential(place)
    with told(place):
        return fsspec.url_to_fs(place)


def is_local(place: str) -> bool:
    filesystem, _ = located(place)
    return "file" in filesystem.protocol


def path_of(place: str) -> str:
    """The path of a local file, which may have been given as ``file://``."""
    return located(place)[1]


def read_bytes(place: str) -> bytes:
    """Raises FileNotFoundError where nothing is there, and InputError where that is not known."""
    filesystem, path = located(place)
    with told(place, absence=FileNotFoundError):
        content: Any = filesystem.cat_file(path)
    return content


def read_range(place: str, start: int, end: int) -> bytes:
    """The bytes from ``start`` to before ``end``. Raises InputError unless all of them came."""
    filesystem, path = located(place)
    with told(place):
        content: Any = filesystem.cat_file(path, start=start, end=end)
    if len(content) != end - start:
        came = f"{len(content)} of {end - start} bytes came"
        raise InputError(f"{place}: the connection was cut, {came}; run it again")
    return content


def size_of(place: str) -> int:
    """Bytes. Raises InputError."""
    filesystem, path = located(place)
    with told(place):
        return int(filesystem.info(path)["size"])


class Ranges(io.RawIOBase):
    """A file that is never here as a whole: every read asks the storage for just those bytes."""

    def __init__(self, place: str) -> None:
        self.place, self.size, self.position = place, size_of(place), 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self.position

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        origin = {os.SEEK_SET: 0, os.SEEK_CUR: self.position, os.SEEK_END: self.size}[whence]
        self.position = origin + offset
        return self.position

    def readinto(self, buffer: Any) -> int:
        end = min(self.position + len(buffer), self.size)
        count = max(end - self.position, 0)
        buffer[:count] = read_range(self.place, self.position, end) if count else b""
        self.position += count
        return count


@contextmanager
def told(place: str, *, absence: type[OSError] | tuple[()] = ()) -> Iterator[None]:
    """Makes one InputError of what a storage library raises, but for ``absence``."""
    try:
        yield
    except InputError:
        raise
    except absence:
        raise
    except Exception as error:  # every library has its own kinds, and many are no OSError
        raise InputError(f"{place}: {_reason(error)}") from None


def _reason(error: Exception) -> str:
    kinds = [kind.__name__ for kind in type(error).__mro__]
    if isinstance(error, ImportError):  # fsspec's own words
        return f"{error}; for S3 that is: pip install 'segcore[s3]'"
    if isinstance(error, FileNotFoundError):
        return "there is no such bucket or file; check the address"
    if isinstance(error, PermissionError):
        return f"access was refused; check the account: {CREDENTIALS}"
    if any("Credential" in kind or "TokenRetrieval" in kind for kind in kinds):
        return f"no credentials were found ({kinds[0]}); {CREDENTIALS}"
    if isinstance(error, ValueError):
        return "this is no address that fsspec knows; write one such as s3://bucket/folder"
    return f"the storage does not answer ({kinds[0]}); check the network and the address"
