"""From the drop folder or the network to an unpacked tree below the raw folder.

``raw/.unpacked`` says per archive what came of it and from where; it is written last, so that
whatever a killed process left is unpacked again. Fetched archives stay in ``raw/../downloads``,
where other datasets find them; they may be deleted once they are unpacked.
"""

import os
import re
import shutil
import stat
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from threading import Lock
from typing import Any

from segcore.acquisition.archives import Archive, read_from, written_below
from segcore.acquisition.fetching import Fetching, held
from segcore.acquisition.members import UnusableError, kind_of
from segcore.acquisition.unpacking import files_below, is_text, unpack
from segcore.acquisition.watch import Listener, Watch
from segcore.errors import InputError
from segcore.files import hash_of, read_json, write_json

FILES_AT_ONCE = 4
"""A publisher's server has one line for all; more connections would be rude."""
OURS = ".unpacked"


def bring(
    archives: tuple[Archive, ...], raw: Path, drop: Path, home: str, listener: Listener
) -> None:
    """Unpacks every archive below ``raw``, fetched where the drop folder lacks it.

    What is there already, from a former run, is left alone. ``home`` is where a person gets the
    files. Raises InputError that lists every archive that could not be had, and the remedy.
    """
    if not archives:
        return
    watch, problems = Watch(listener), list[str]()
    acquisition = Acquisition(raw, drop, home, watch)
    pool = ThreadPoolExecutor(FILES_AT_ONCE)
    try:
        with held(raw / OURS / "lock", watch):
            for future in as_completed([pool.submit(acquisition.bring, one) for one in archives]):
                try:
                    future.result()
                except InputError as error:
                    problems.append(str(error))
                    watch.say(problems[-1])  # now: the others may take hours
    finally:
        watch.stop()
        pool.shutdown(cancel_futures=True)
    if problems:
        raise InputError("\n  ".join(sorted(problems)))


class Acquisition:
    """The archives of one dataset on their way; a thread brings one of them."""

    def __init__(self, raw: Path, drop: Path, home: str, watch: Watch) -> None:
        self.raw, self.drop, self.home, self.watch = raw, drop, home, watch
        self.fetching = Fetching(raw.parent / "downloads", watch)
        self.moving = Lock()  # two archives may share a folder

    def bring(self, archive: Archive) -> None:
        with read_from(self.drop):
            self._bring(archive)

    def _bring(self, archive: Archive) -> None:
        file, trees = self._dropped(archive)
        origin = hash_of([stamp(path) for path in ([file] if file else trees)])
        if self._is_there(archive, origin if file or trees else ""):
            return
        if file:
            self._check(archive, file)
            self._take(archive, origin, lambda aside: self._open(archive, file, aside))
        elif trees:
            self._take(archive, origin, lambda aside: self._copy(archive, trees, aside))
        else:
            form = ", packed or unpacked," if archive.trees else ""
            remedy = f"get it from {self.home} and put it{form} into {self.drop}"
            with self.fetching.fetched(archive, remedy) as fetched:
                self._take(archive, "", lambda aside: self._open(archive, fetched, aside))

    def _dropped(self, archive: Archive) -> tuple[Path | None, list[Path]]:
        """What the drop folder holds: the file, else what it would unpack to."""
        found = sorted(path for path in self.drop.glob(archive.name) if path.is_file())
        if "*" in archive.name:  # other files may lie there, too
            found = [path for path in found if kind_of(path)]
        if len(found) > 1:
            names = ", ".join(path.name for path in found)
            raise InputError(f"{self.drop} holds {names}; leave the one that is {archive.title}")
        if found:
            return found[0], []
        base = self.drop / archive.folder
        return None, sorted(path for tree in archive.trees for path in base.glob(tree))

    def _check(self, archive: Archive, file: Path) -> None:
        if not (difference := archive.difference(file)):
            return
        if archive.strict:
            raise InputError(f"{file} {difference}; get it again, or delete it to have it fetched")
        self.watch.say(f"{file} {difference}; taken all the same, it is re-issued")

    def _notes(self, archive: Archive) -> Path:
        key = re.sub(r"[^\w.-]+", "_", f"{archive.folder}/{archive.name}".removeprefix("./"))
        return self.raw / OURS / f"{key}.json"

    def _is_there(self, archive: Archive, origin: str) -> bool:
        """Whether it is unpacked, from what the drop folder holds if it holds anything."""
        notes = noted(self._notes(archive))
        if notes["archive"] != identity(archive) or (origin and notes["origin"] != origin):
            return False
        return all(os.path.lexists(self.raw / name) for name in notes["files"])

    def _take(self, archive: Archive, origin: str, fill: Callable[[Path], None]) -> None:
        """Fills a folder aside, moves what is in it to its place, then says so."""
        self.watch.say(f"{archive.title}: unpacking")
        aside = self._notes(archive).with_suffix(".part")
        with written_below(self.raw):
            try:
                remove(aside)
                aside.mkdir(parents=True)
                fill(aside)
                self._settle(archive, origin, aside)
            finally:  # of what failed, maybe gigabytes on a disk that is full
                shutil.rmtree(aside, ignore_errors=True)

    def _settle(self, archive: Archive, origin: str, aside: Path) -> None:
        notes, home = self._notes(archive), self.raw / archive.folder
        if (aside / OURS).exists():
            raise UnusableError(f"{archive.title} holds {OURS!r}, a name that is kept for notes")
        paths = (home / path.relative_to(aside) for path in files_below(aside))
        files = sorted(path.relative_to(self.raw).as_posix() for path in paths)
        with self.moving:
            self._move(aside, home, notes, files)
            remove(aside)  # empty folders; nobody would look for them once the notes are there
            write_json(notes, {"archive": identity(archive), "origin": origin, "files": files})

    def _move(self, aside: Path, home: Path, notes: Path, files: list[str]) -> None:
        """What came of a former version goes first; else both would be there, mixed."""
        former = set(noted(notes)["files"])
        # Until all have moved the notes name every file that may be there, and no archive.
        write_json(notes, {"archive": "", "origin": "", "files": sorted(former.union(files))})
        for other in set(notes.parent.glob("*.json")) - {notes}:
            former -= set(noted(other)["files"])
        for name in former - set(files):
            remove(self.raw / name)
        merge(aside, home)

    def _open(self, archive: Archive, file: Path, aside: Path) -> None:
        if archive.unpack:
            unpack(file, aside, self.watch.beat)
        else:
            copy(file, aside / archive.name)

    def _copy(self, archive: Archive, trees: list[Path], aside: Path) -> None:
        """True copies: with links a later change in the drop folder would change the raw files."""
        for source in (file for tree in trees for file in files_of(tree)):
            self.watch.beat()
            copy(source, aside / source.relative_to(self.drop / archive.folder))


def identity(archive: Archive) -> str:
    """Changes when what is unpacked would; another mirror gives the same."""
    return hash_of([archive.name, archive.size, archive.checksum, archive.folder, archive.unpack])


def stamp(path: Path) -> Any:
    """Changes when a file does that lies there, or below."""
    stats = ((one, one.stat()) for one in files_of(path))
    return [(str(one), found.st_size, found.st_mtime_ns) for one, found in stats]


def files_of(place: Path, above: tuple[str, ...] = ()) -> Iterator[Path]:
    """Every file at ``place`` or below it, in a fixed order; links are followed.

    Raises InputError on a link to a folder that it lies in, which would never end.
    """
    if not place.is_dir():
        yield place
        return
    folder = os.path.realpath(place)
    if folder in above:
        raise InputError(f"{place} is a link to a folder that it lies in; remove it")
    for name in sorted(os.listdir(place)):
        yield from files_of(place / name, (*above, folder))


def copy(source: Path, target: Path) -> None:
    """Raises InputError on a source that is no file of its own kind, name or rights."""
    with read_from(source):
        if not stat.S_ISREG(source.stat().st_mode):
            raise InputError(f"{source} is no file; remove it")
        if not is_text(str(source)):
            raise InputError(f"{str(source)!r} has a name that is no UTF-8; rename it")
        source.open("rb").close()
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)


def noted(notes: Path) -> dict[str, Any]:
    """What was written of an archive; of one that never came whole, nothing."""
    try:
        return read_json(notes)
    except InputError:
        return {"archive": "", "origin": "", "files": []}


def remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def merge(source: Path, target: Path) -> None:
    """Moves what is in ``source`` to ``target``; folders are joined, files replaced."""
    target.mkdir(parents=True, exist_ok=True)
    for entry in list(os.scandir(source)):
        goal = target / entry.name
        folder = entry.is_dir(follow_symlinks=False)
        if folder and goal.is_dir() and not goal.is_symlink():
            merge(Path(entry.path), goal)
        else:
            remove(goal)
            Path(entry.path).rename(goal)
