"""Archives of others, unpacked so that nothing is written outside the folder that is given.

Zip and tar are told apart by content. RefusedError with the member's name: absolute paths, ``..``,
links that lead out, devices and pipes, more than an honest archive holds, damage, encryption.
"""

import os
import shutil
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from lzma import LZMAError
from pathlib import Path, PurePosixPath
from typing import Any

from segcore.acquisition.archives import is_web_page, written_below
from segcore.errors import InputError

DAMAGED = (
    zipfile.BadZipFile,
    tarfile.TarError,
    EOFError,
    LZMAError,
    NotImplementedError,  # zip: a compression that Python does not know
    OverflowError,
    UnicodeDecodeError,
    struct.error,
    zlib.error,
)


class UnusableError(InputError):
    """The archive is at fault, not the disk: another copy of it would help."""


ZIP = (b"PK\x03\x04", b"PK\x05\x06")
NESTED = (".zip", ".tar", ".tgz", ".gz", ".bz2", ".xz")
DEPTH = 3
"""Archives inside archives; one that holds itself would never end."""
RATIO, SLACK, BLOCK = 100, 100 << 20, 4096
"""Most bytes on disk: ratio x size of the archive + slack; every member takes a block at least.
Images hardly compress, annotations in JSON about tenfold; a bomb thousandfold."""
REMEDY = "nothing of it was kept; get it again from its publisher"


@dataclass(frozen=True)
class Member:
    """One entry of an archive; ``kind`` is ``file``, ``folder``, ``symbolic`` or ``hard``."""

    name: str
    kind: str
    size: int
    link: str
    open: Callable[[], Any]


@dataclass
class Unpacking:
    """An archive, with those inside it, on its way into ``root``."""

    archive: Path
    root: Path
    beat: Callable[[], None]
    left: int = 0
    """Bytes that may still be written before it is taken for a bomb."""

    def run(self) -> None:
        self.left = RATIO * self.archive.stat().st_size + SLACK
        self.root.mkdir(parents=True, exist_ok=True)
        self.root = Path(os.path.realpath(self.root))
        self._unpack(self.archive, self.root)
        depth = 0
        while inner := [path for path in files_below(self.root) if is_nested(path)]:
            depth += 1
            if depth > DEPTH:
                problem = f"more than {DEPTH} archives inside one another"
                raise UnusableError(f"{self.archive}: {problem}; {REMEDY}")
            for path in inner:
                before = path.stat().st_ino
                self._unpack(path, path.parent)
                if path.is_file() and path.stat().st_ino == before:  # else one of its members
                    path.unlink()

    def _unpack(self, archive: Path, folder: Path) -> None:
        links, count = list[Path](), 0
        with damage_told(archive), members_of(archive) as members:
            for count, member in enumerate(members, start=1):  # noqa: B007
                self.beat()
                self._spend(member.size + BLOCK)
                path = self._placed(folder, member.name)
                with written_below(self.root):
                    self._write(member, path, folder)
                if member.kind == "symbolic":
                    links.append(path)
        if not count:
            raise UnusableError(f"{archive} holds no file; {REMEDY}")
        for link in links:  # only now, since a link may lead through one that came after it
            self._inside(link, link.name)

    def _spend(self, count: int) -> None:
        self.left -= count
        if self.left < 0:
            problem = f"unpacks to more than {RATIO} times its size"
            raise UnusableError(f"{self.archive} {problem}; {REMEDY}")

    def _placed(self, folder: Path, name: str) -> Path:
        pure = PurePosixPath(name)
        if pure.is_absolute() or ".." in pure.parts or "\0" in name:
            self._refuse(name, "leads out of its folder")
        path = folder / pure
        self._inside(path.parent, name)
        return path

    def _inside(self, path: Path, name: str) -> None:
        if not Path(os.path.realpath(path)).is_relative_to(self.root):
            self._refuse(name, "leads out of its folder by a link")

    def _refuse(self, name: str, problem: str) -> None:
        raise UnusableError(f"{self.archive}: member {name!r} {problem}; {REMEDY}")

    def _write(self, member: Member, path: Path, folder: Path) -> None:
        if member.kind == "folder":
            path.mkdir(parents=True, exist_ok=True)
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.is_symlink() or path.is_file():
            path.unlink()  # a name that stands twice: the last one counts
        if member.kind == "symbolic":
            self._inside(path.parent / member.link, member.name)
            path.symlink_to(member.link)
        elif member.kind == "hard":
            source = self._placed(folder, member.link)
            self._inside(source, member.name)
            if not source.is_file():
                self._refuse(member.name, f"is a link to {member.link!r}, which is not there")
            self._spend(source.stat().st_size)
            shutil.copyfile(source, path)
        elif member.kind == "file":
            self._store(member, path)
        else:
            self._refuse(member.name, f"is a {member.kind}, no file")

    def _store(self, member: Member, path: Path) -> None:
        with member.open() as source, path.open("xb") as file:
            while chunk := read(source, self.archive):
                self.beat()
                file.write(chunk)
            if file.tell() != member.size:
                raise zipfile.BadZipFile(f"{member.name} is cut short")


def unpack(archive: Path, root: Path, beat: Callable[[], None]) -> None:
    """Unpacks into ``root``, archives inside it too; ``beat`` is called all along and may raise.

    Raises UnusableError that names archive and member; what ``root`` then holds is worth nothing.
    """
    Unpacking(archive, root, beat).run()


def read(source: Any, archive: Path) -> bytes:
    """A failure to read is the archive's, never the disk's that is written to."""
    with damage_told(archive):
        return source.read(1 << 20)


@contextmanager
def damage_told(archive: Path) -> Iterator[None]:
    try:
        yield
    except DAMAGED as error:
        raise UnusableError(f"{archive} is damaged or cut short ({error}); {REMEDY}") from None
    except RuntimeError as error:  # what zipfile raises on a member with a password
        if "password" not in str(error):
            raise
        raise UnusableError(f"{archive} is encrypted; unpack it into the drop folder") from None
    except OSError as error:
        raise UnusableError(f"{archive} cannot be read ({error}); {REMEDY}") from None


def files_below(folder: Path) -> Iterator[Path]:
    """Every file and link, in no order; links are not followed."""
    for parent, folders, names in os.walk(folder):
        linked = [name for name in folders if os.path.islink(os.path.join(parent, name))]
        yield from (Path(parent, name) for name in [*names, *linked])


def is_nested(path: Path) -> bool:
    return path.suffix.lower() in NESTED and not path.is_symlink() and bool(kind_of(path))


def kind_of(path: Path) -> str:
    """``zip``, ``tar`` (compressed or not), or nothing. By content: suffixes are often wrong."""
    with path.open("rb") as file:
        if file.read(4) in ZIP:
            return "zip"
    try:
        return "tar" if tarfile.is_tarfile(path) else ""
    except (*DAMAGED, OSError):
        return ""


@contextmanager
def members_of(archive: Path) -> Iterator[Iterator[Member]]:
    """Its entries, in order; they are read as they come. Raises UnusableError on no archive."""
    if not (kind := kind_of(archive)):
        what = "is a web page" if is_web_page(archive) else "is neither a zip nor a tar archive"
        raise UnusableError(f"{archive} {what}, or not even its beginning is whole; {REMEDY}")
    if kind == "tar":
        with tarfile.open(archive) as tar:
            yield tar_members(tar)
        return
    with zipfile.ZipFile(archive) as opened:
        yield (zip_member(opened, info) for info in opened.infolist())


def zip_member(opened: zipfile.ZipFile, info: zipfile.ZipInfo) -> Member:
    name = info.filename.replace("\\", "/")  # written so by some Windows programs
    mode = info.external_attr >> 16
    kind = "folder" if name.endswith("/") else "file"
    link = ""
    if stat.S_ISLNK(mode):
        kind, link = "symbolic", opened.read(info).decode()
    elif mode and kind == "file" and stat.S_IFMT(mode) not in (0, stat.S_IFREG):
        kind = "device or pipe"
    return Member(name, kind, info.file_size, link, lambda: opened.open(info))


def tar_members(tar: tarfile.TarFile) -> Iterator[Member]:
    for info in tar:
        named = (info.isreg(), "file"), (info.isdir(), "folder"), (info.issym(), "symbolic")
        kinds = [kind for holds, kind in (*named, (info.islnk(), "hard")) if holds]
        if info.size < 0:  # older Pythons then walk backwards, for ever
            raise tarfile.ReadError(f"{info.name} has {info.size} bytes")
        size = info.size if info.isreg() else 0
        kind = next(iter(kinds), "device or pipe")
        yield Member(info.name, kind, size, info.linkname, lambda info=info: tar.extractfile(info))
    # tarfile ends as quietly at a damaged header, or none, as at the empty one that ends an archive
    assert tar.fileobj
    tar.fileobj.seek(tar.offset)
    if tar.fileobj.read(512) != bytes(512):
        raise tarfile.ReadError("its end is missing")
