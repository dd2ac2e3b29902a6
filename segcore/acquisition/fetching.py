"""An archive from the first mirror that gives it, kept where other datasets find it too."""

import fcntl
import http.client
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from segcore.acquisition.accounts import Account
from segcore.acquisition.archives import Archive, written_below
from segcore.acquisition.members import UnusableError
from segcore.acquisition.transfers import SECONDS_OF_SILENCE, RefusedError, Transfer, WebPageError
from segcore.acquisition.watch import Watch
from segcore.errors import InputError
from segcore.files import hash_of


class Fetching:
    """Files on their way from publishers to ``downloads``. ``remedy`` ends what fails."""

    def __init__(self, downloads: Path, watch: Watch) -> None:
        self.downloads, self.watch = downloads, watch
        self.account = Account()

    @contextmanager
    def fetched(self, archive: Archive, remedy: str) -> Iterator[Path]:
        """The file, whole and checked; deleted where it turns out to be no good archive.

        Raises InputError that says per mirror what failed, and ``remedy``.
        """
        if not archive.urls and not archive.package:
            raise InputError(f"{archive.title} cannot be fetched by a program: {remedy}")
        # Other datasets may have another file of that name.
        key = hash_of([archive.package, *archive.urls[:1]])
        path = self.downloads / f"{key}-{archive.name}"
        with held(path.with_name(f"{path.name}.lock"), self.watch):
            if not path.is_file() or (archive.strict and archive.difference(path)):
                self._fetch(archive, path, remedy)
            try:
                yield path
            except UnusableError:
                path.unlink()
                raise

    def _fetch(self, archive: Archive, path: Path, remedy: str) -> None:
        part, reasons = path.with_name(f"{path.name}.part"), list[str]()
        for url in ("",) if archive.package else archive.urls:
            try:
                transfer = self._transferred(archive, url, part)
            except RefusedError as error:
                reasons.append(f"{url}: {error}" if url else str(error))
                self.watch.say(f"{archive.name}: {reasons[-1]}")
                continue
            with written_below(self.downloads):
                part.replace(path)
            return transfer.forget()
        raise InputError("\n    ".join([f"{archive.name} cannot be fetched:", *reasons, remedy]))

    def _transferred(self, archive: Archive, url: str, part: Path) -> Transfer:
        if not archive.package:
            transfer = Transfer(archive, url, part, plainly, self.watch)
            transfer.run()
            return transfer
        for retry in (True, False):  # a session may end before its 11 GB have come
            url, stated = self.account.resolve(archive)
            transfer = Transfer(stated, url, part, self.account.open, self.watch)
            try:
                transfer.run()
                break
            except WebPageError:
                if not retry:
                    raise
                self.account.renew()
        return transfer


def plainly(request: urllib.request.Request) -> http.client.HTTPResponse:
    return urllib.request.urlopen(request, timeout=SECONDS_OF_SILENCE)


@contextmanager
def held(path: Path, watch: Watch) -> Iterator[None]:
    """Holds a lock file; waits while another process does. Raises StoppedError."""
    with written_below(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("a")
    with file:
        with written_below(path.parent):  # not every disk knows locks
            wait_for(file, path, watch)
        yield


def wait_for(file: IO[str], path: Path, watch: Watch) -> None:
    told = False
    while True:
        try:
            return fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if not told:
                watch.say(f"waiting for another process that holds {path}")
            told = True
            watch.pause(0.2)
