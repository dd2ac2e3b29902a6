"""Copies of remote shards on this machine: verified, bounded, shared by its processes.

A copy is named by its sha256 and takes that name only when its bytes have been checked. Whoever
reads one holds a shared lock on it; what nobody holds may be evicted, the least recently opened
first. So the limit stands for files that are mapped as well, whose space the system would free
only when they are closed. A lock ends with its process, however that dies.
"""

import fcntl
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO, NamedTuple
from weakref import finalize

from segcore.errors import InputError
from segcore.files import sha256_of
from segcore.storage import Ranges, is_local, read_range, size_of

FOLDER, LIMIT = "SEGCORE_CACHE", "SEGCORE_CACHE_GB"
"""The environment variables for where copies lie, and how many 10^9 bytes they may take."""
CHUNK = 16 << 20
"""Bytes per request; more would cost memory, less would cost round trips."""
NAME = re.compile(r"(?P<sha256>[0-9a-f]{64})(\.(?P<size>\d+)\.part)?")


class Held:
    """A copy that is in use: it stays until this is closed, or gone."""

    def __init__(self, file: IO[bytes]) -> None:
        self.name: str = file.name
        self.close = finalize(self, file.close)


class Source(NamedTuple):
    """Where to read a shard's bytes from, and what to do where they are not what they should be."""

    place: str
    remedy: str
    file: Held | Ranges | None = None
    """The copy that is held, or the file as requests for ranges; none for a path of one's own."""


def cache_folder() -> Path:
    """This machine's own, for whatever can be fetched or made again."""
    return Path(os.environ.get(FOLDER) or Path.home() / ".cache" / "segcore")


def source_of(place: str, sha256: str) -> Source:
    """A local file as it is; of a remote one its copy, or where there is no room, itself.

    Raises InputError where the storage does not give it.
    """
    if is_local(place):
        return Source(place, "run the stage `prepare` of this dataset again")
    if copy := Copies.of_this_machine().held(place, sha256):
        return Source(copy.name, "delete it, and it is fetched again", copy)
    return Source(place, "delete it there and publish it again", Ranges(place))


class Copies:
    """The copies in ``folder``: ``limit`` bytes at most, what is on its way counted whole."""

    def __init__(self, folder: Path, limit: int) -> None:
        self.folder, self.limit = folder, limit

    @classmethod
    def of_this_machine(cls) -> "Copies":
        """Raises InputError where the environment gives no number as the limit."""
        given = os.environ.get(LIMIT, "64")
        if not re.fullmatch(r"\d+(\.\d+)?", given):
            raise InputError(f"{LIMIT}={given!r} is no size; give a number of gigabytes")
        return cls(cache_folder() / "shards", round(float(given) * 1e9))

    def held(self, place: str, sha256: str) -> Held | None:
        """The copy of ``place``, which is not evicted as long as it is held.

        None where there is no room, since it alone is over the limit or others are in use.
        Raises InputError where the storage does not give it, or gives something else.
        """
        if not re.fullmatch(r"[0-9a-f]{64}", sha256):  # it becomes the name of a file
            raise InputError(f"{place}: its manifest holds no sha256 of it; publish it again")
        path = self.folder / sha256
        try:
            while not (copy := _shared(path)):
                size = size_of(place)
                part = path.with_name(f"{sha256}.{size}.part")
                file = self._claimed(part, size)
                if file is None:
                    return None
                with file:
                    self._complete(file, part, path, place)
            os.utime(path)
        except OSError as error:
            remedy = f"make room, or name another folder in {FOLDER}"
            raise InputError(f"{self.folder} cannot hold copies ({error}); {remedy}") from None
        return Held(copy)

    def _complete(self, file: IO[bytes], part: Path, path: Path, place: str) -> None:
        """Fills ``part``, unless that was done or given up while this process waited for it."""
        if not _locked_now(file) or not _is_at(file, part):
            return
        found = path.name if path.exists() else _filled(file, part, place)
        with self._locked():
            if found == path.name and not path.exists():
                part.replace(path)
                return
            part.unlink()
        if found != path.name:
            says = f"its sha256 is {found}, its manifest says {path.name}"
            raise InputError(f"{place}: {says}; delete it there and publish it again")

    def _claimed(self, part: Path, size: int) -> IO[bytes] | None:
        """The file to write to, when no other process writes to it; None where there is no room.

        That other one may have renamed or unlinked it meanwhile.
        """
        with self._locked():
            file = part.open("a+b")
            alone = _locked_now(file)
            if alone and not self._made_room(part, size):
                file.close()
                part.unlink()
                return None
        if not alone:  # shared: once it is whole, its readers never let go of the lock
            fcntl.flock(file, fcntl.LOCK_SH)
        return file

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """One process at a time counts what is there and adds to it."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / ".lock").open("a") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def _made_room(self, part: Path, size: int) -> bool:
        """Whether ``part`` may grow to ``size``; evicts what nobody uses, if that is enough."""
        if size > self.limit:
            return False
        found = [path for path in self.folder.iterdir() if NAME.fullmatch(path.name)]
        taken = {path: _size(path) for path in found if path != part}
        missing = size - part.stat().st_size
        excess = max(
            sum(taken.values()) + size - self.limit,
            missing - shutil.disk_usage(self.folder).free,
        )
        with ExitStack() as stack:
            leaving = list[Path]()
            for path in sorted(taken, key=_last_use):
                if excess <= 0:
                    break
                if _locked_now(stack.enter_context(path.open("rb"))):
                    leaving.append(path)
                    excess -= taken[path]
            if excess > 0:
                return False
            for path in leaving:
                path.unlink()
        return True


def _filled(file: IO[bytes], part: Path, place: str) -> str:
    """Adds what is missing; returns the sha256. Raises InputError, and keeps what has come."""
    begun = _append(file, place, _size(part))
    found = sha256_of(part)
    if begun and not part.name.startswith(found):  # the start of it was of another file
        file.truncate(0)
        _append(file, place, _size(part))
        found = sha256_of(part)
    return found


def _append(file: IO[bytes], place: str, size: int) -> int:
    """Returns how much was there before."""
    begun = position = file.seek(0, os.SEEK_END)
    while position < size:
        position += file.write(read_range(place, position, min(position + CHUNK, size)))
    file.flush()
    os.fsync(file.fileno())
    return begun


def _shared(path: Path) -> IO[bytes] | None:
    try:
        file = path.open("rb")
    except FileNotFoundError:
        return None
    fcntl.flock(file, fcntl.LOCK_SH)
    if _is_at(file, path):
        return file
    file.close()  # evicted between the two
    return None


def _locked_now(file: IO[bytes]) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _is_at(file: IO[bytes], path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False


def _size(path: Path) -> int:
    """The bytes of a copy; of one on its way, those that it will have."""
    found = NAME.fullmatch(path.name)
    return int(found["size"]) if found and found["size"] else path.stat().st_size


def _last_use(path: Path) -> float:
    return path.stat().st_mtime
