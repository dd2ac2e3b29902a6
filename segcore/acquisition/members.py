"""What stands in an archive, entry by entry; zip and tar are told apart by content.

The files are of others: whatever a library makes of a damaged one, an UnusableError comes of it,
and no header is read whole that is longer than an honest one.
"""

import stat
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

from segcore.acquisition.archives import is_web_page
from segcore.acquisition.watch import StoppedError
from segcore.errors import InputError

ZIP = (b"PK\x03\x04", b"PK\x05\x06")
LONGEST_PATH = 4096
"""No system takes a longer one; to follow one of megabytes would last for hours."""
LONGEST_HEADER = 1 << 20
"""Bytes of a name or of further fields before a member of a tar."""
READ_WHOLE = (
    tarfile.GNUTYPE_LONGNAME,
    tarfile.GNUTYPE_LONGLINK,
    tarfile.XHDTYPE,
    tarfile.XGLTYPE,
    tarfile.SOLARIS_XHDTYPE,
)
REMEDY = "nothing of it was kept; get it again from its publisher"


class UnusableError(InputError):
    """The archive is at fault, not the disk: another copy of it would help."""


@dataclass(frozen=True)
class Member:
    """One entry of an archive; ``kind`` is ``file``, ``folder``, ``symbolic`` or ``hard``."""

    name: str
    kind: str
    size: int
    link: str
    headers: int
    """Bytes that were read to know of it."""
    open: Callable[[], Any]


@contextmanager
def damage_told(archive: Path) -> Iterator[None]:
    try:
        yield
    except (InputError, StoppedError):
        raise
    except OSError as error:
        raise UnusableError(f"{archive} cannot be read ({error}); {REMEDY}") from None
    except Exception as error:  # the libraries have many kinds, and plain ValueError among them
        if isinstance(error, RuntimeError) and "password" in str(error):
            raise UnusableError(f"{archive} is encrypted; unpack it into the drop folder") from None
        what = str(error) or type(error).__name__
        raise UnusableError(f"{archive} is damaged or cut short ({what}); {REMEDY}") from None


def read(source: Any, archive: Path) -> bytes:
    """A failure to read is the archive's, never the disk's that is written to."""
    with damage_told(archive):
        return source.read(1 << 20)


def kind_of(path: Path) -> str:
    """``zip``, ``tar`` (compressed or not), or nothing. By content: suffixes are often wrong."""
    with path.open("rb") as file:
        if file.read(4) in ZIP:
            return "zip"
    try:
        tarfile.open(path, tarinfo=Header).close()
    except Exception:  # OSError, too: what gzip says of a header that is none
        return ""
    return "tar"


@contextmanager
def members_of(archive: Path) -> Iterator[Iterator[Member]]:
    """Its entries, in order; they are read as they come. Raises UnusableError on no archive."""
    if not (kind := kind_of(archive)):
        what = "is a web page" if is_web_page(archive) else "is neither a zip nor a tar archive"
        raise UnusableError(f"{archive} {what}, or not even its beginning is whole; {REMEDY}")
    if kind == "tar":
        with tarfile.open(archive, tarinfo=Header) as tar:
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
        if info.file_size > LONGEST_PATH:
            raise zipfile.BadZipFile(f"{name} is a link of {info.file_size} bytes")
        kind, link = "symbolic", opened.read(info).decode()
    elif mode and kind == "file" and stat.S_IFMT(mode) not in (0, stat.S_IFREG):
        kind = "device or pipe"
    return Member(name, kind, info.file_size, link, 0, partial(opened.open, info))


class Header(tarfile.TarInfo):
    """``tarfile`` itself reads long names, further fields and lists of holes whole, and a few
    megabytes, compressed, can say that they are many gigabytes long."""

    def _proc_member(self, tar: tarfile.TarFile) -> tarfile.TarInfo:
        if self.type in READ_WHOLE and not 0 <= self.size <= LONGEST_HEADER:
            raise tarfile.ReadError(f"a header of {self.size} bytes")
        if self.type == tarfile.GNUTYPE_SPARSE:
            self._proc_gnusparse_10()
        return super()._proc_member(tar)  # pyright: ignore[reportAttributeAccessIssue]

    def _proc_gnusparse_10(self, *_: object) -> NoReturn:
        """In the place of what ``tarfile`` has for the newer form of files with holes."""
        raise tarfile.ReadError("a file with holes, as tar --sparse writes it")


def tar_members(tar: tarfile.TarFile) -> Iterator[Member]:
    end = 0
    for info in tar:
        named = (info.isreg(), "file"), (info.isdir(), "folder"), (info.issym(), "symbolic")
        kinds = [kind for holds, kind in (*named, (info.islnk(), "hard")) if holds]
        if info.size < 0:  # older Pythons then walk backwards, for ever
            raise tarfile.ReadError(f"{info.name} has {info.size} bytes")
        size = info.size if info.isreg() else 0
        kind = next(iter(kinds), "device or pipe")
        headers, end = info.offset_data - end, tar.offset
        opened = partial(tar.extractfile, info)
        yield Member(info.name, kind, size, info.linkname, headers, opened)
    # tarfile ends as quietly at a damaged header, or none, as at the empty one that ends an archive
    assert tar.fileobj
    tar.fileobj.seek(tar.offset)
    if tar.fileobj.read(512) != bytes(512):
        raise tarfile.ReadError("its end is missing")
