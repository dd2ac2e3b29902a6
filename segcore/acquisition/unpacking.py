"""Archives of others, unpacked so that nothing is written outside the folder that is given.

UnusableError with the member's name: absolute paths, ``..``, links that lead out, devices and
pipes, names that are no text, more than an honest archive holds, damage, encryption.
"""

import os
import shutil
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import NoReturn

from segcore.acquisition.archives import written_below
from segcore.acquisition.members import (
    LONGEST_PATH,
    REMEDY,
    Member,
    UnusableError,
    damage_told,
    kind_of,
    members_of,
    read,
)

NESTED = (".zip", ".tar", ".tgz", ".gz", ".bz2", ".xz")
DEPTH = 3
"""Archives inside archives; one that holds itself would never end."""
RATIO, SLACK, BLOCK = 100, 100 << 20, 4096
"""Most bytes on disk: ratio x size of the archive + slack; every member takes a block at least.
Images hardly compress, annotations in JSON about tenfold; a bomb thousandfold."""
SHOWN = 200
"""Letters of a name in a message."""


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
                self._spend(member.headers + member.size + BLOCK)
                path = self._placed(folder, member.name, member.kind)
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

    def _placed(self, folder: Path, name: str, kind: str) -> Path:
        if len(name) > LONGEST_PATH:
            self._refuse(name, "is longer than a path")
        pure = PurePosixPath(name)
        if pure.is_absolute() or ".." in pure.parts or "\0" in name:
            self._refuse(name, "leads out of its folder")
        if not is_text(name):
            self._refuse(name, "has a name that is no UTF-8")
        if not pure.parts:  # what `tar -C folder .` begins with
            if kind != "folder":
                self._refuse(name, f"is a {kind} without a name")
            return folder
        path = folder / pure
        self._inside(path.parent, name)
        return path

    def _inside(self, path: Path, name: str) -> None:
        if not Path(os.path.realpath(path)).is_relative_to(self.root):
            self._refuse(name, "leads out of its folder by a link")

    def _refuse(self, name: str, problem: str) -> NoReturn:
        raise UnusableError(f"{self.archive}: member {name[:SHOWN]!r} {problem}; {REMEDY}")

    def _write(self, member: Member, path: Path, folder: Path) -> None:
        if member.kind == "folder":
            path.mkdir(parents=True, exist_ok=True)
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.is_symlink() or path.is_file():
            path.unlink()  # a name that stands twice: the last one counts
        if member.kind == "symbolic":
            if "\0" in member.link or len(member.link) > LONGEST_PATH:
                self._refuse(member.name, f"is a link to {member.link[:SHOWN]!r}, which is no path")
            self._inside(path.parent / member.link, member.name)
            path.symlink_to(member.link)
        elif member.kind == "hard":
            source = self._placed(folder, member.link, member.kind)
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


def files_below(folder: Path) -> Iterator[Path]:
    """Every file and link, in no order; links are not followed."""
    for parent, folders, names in os.walk(folder):
        linked = [name for name in folders if os.path.islink(os.path.join(parent, name))]
        yield from (Path(parent, name) for name in [*names, *linked])


def is_nested(path: Path) -> bool:
    return path.suffix.lower() in NESTED and not path.is_symlink() and bool(kind_of(path))


def is_text(name: str) -> bool:
    """Bytes of a name that are no UTF-8 stand in it as lone surrogates; no list could hold it."""
    return name.encode(errors="replace").decode() == name
