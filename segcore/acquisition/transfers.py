"""One file over HTTP, into a ``.part`` file that a later attempt continues.

RFC 9110, sections 13.1.5 (If-Range), 14.2 (Range), 15.3.7 (206) and 15.5.17 (416).
"""

import http.client
import os
import shutil
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from segcore.acquisition.archives import Archive, is_web_page, written_below
from segcore.acquisition.watch import Watch
from segcore.errors import InputError
from segcore.files import read_json, write_json

SECONDS_OF_SILENCE = 20.0
"""After which a connection counts as broken."""
ATTEMPTS = 5
PAUSE, LONGEST_PAUSE = 1.0, 60.0
"""Seconds before the second attempt, doubled for every further one."""
PROGRESS = 1 << 20
"""Bytes after which the count of attempts begins anew."""
CHUNK = 1 << 18
WORTH_ANOTHER = (408, 425, 429, 500, 502, 503, 504)

Opened = Callable[[urllib.request.Request], http.client.HTTPResponse]


class RefusedError(Exception):
    """This address will not give the file; another attempt is of no use."""


class WebPageError(RefusedError):
    """A page to read came instead: an expired link, or a session that is not valid."""

    def __init__(self) -> None:
        super().__init__("a web page came instead of the file")


class BrokenError(Exception):
    """The connection failed; what has come is kept. ``pause``: seconds the server asks for."""

    def __init__(self, reason: str, pause: float = 0.0) -> None:
        super().__init__(reason)
        self.pause = pause


@dataclass(frozen=True)
class Version:
    """What a server says of the file that it sends; another version must not be appended."""

    url: str = ""
    etag: str = ""
    modified: str = ""
    size: int | None = None

    @property
    def validator(self) -> str:
        """For If-Range, which takes no weak tag."""
        return self.modified if self.etag.startswith("W/") else self.etag or self.modified

    def differs(self, other: "Version") -> bool:
        """A part of a file need not come with everything that the whole came with."""
        pairs = zip(asdict(self).values(), asdict(other).values(), strict=True)
        return any(mine and theirs and mine != theirs for mine, theirs in pairs)


@dataclass
class Transfer:
    """The bytes of ``archive`` from ``url`` to ``part``, over as many connections as it takes."""

    archive: Archive
    url: str
    part: Path
    opened: Opened
    watch: Watch
    joined: bool = True
    """Whether ``part`` came over several connections: a wrong checksum is then worth another."""

    @property
    def notes(self) -> Path:
        """The version that ``part`` is of."""
        return self.part.with_name(f"{self.part.name}.json")

    def run(self) -> None:
        """Fills ``part`` and checks it. Raises RefusedError, or InputError on a full disk."""
        attempt, pause = 1, PAUSE
        while True:
            before = size_of(self.part)
            try:
                self._connect()
                return self._check()
            except BrokenError as error:
                if size_of(self.part) - before >= PROGRESS:
                    attempt, pause = 1, PAUSE
                if attempt == ATTEMPTS:
                    raise RefusedError(f"{error}, {ATTEMPTS} times") from None
                seconds = min(max(pause, error.pause), LONGEST_PAUSE)
                self.watch.say(f"{self.archive.name}: {error}; again in {seconds:.0f} s")
                self.watch.pause(seconds)
                attempt, pause = attempt + 1, pause * 2

    def forget(self) -> None:
        self.part.unlink(missing_ok=True)
        self.notes.unlink(missing_ok=True)

    def _connect(self) -> None:
        """One connection: appends what is missing."""
        old, have = self._resumable()
        if have and have == old.size:
            return
        headers = {"Accept-Encoding": "identity", "User-Agent": "segcore"}
        if have:
            headers["Range"] = f"bytes={have}-"
            headers |= {"If-Range": old.validator} if old.validator else {}
        try:
            response = self.opened(urllib.request.Request(self.url, headers=headers))
        except urllib.error.HTTPError as error:
            raise self._failed(error) from None
        except (OSError, http.client.HTTPException) as error:
            raise BrokenError(reason_of(error)) from None
        with response:
            self._receive(response, old, have)

    def _resumable(self) -> tuple[Version, int]:
        """What ``part`` holds, if anything that may be continued from this address."""
        have, old = size_of(self.part), Version()
        if have and self.notes.is_file():
            try:
                old = Version(**read_json(self.notes))
            except (InputError, TypeError):  # cut short by a power failure, or of an older form
                self.forget()
        # Without a validator or a checksum nobody would notice that two versions were joined.
        noticed = bool(old.validator or self.archive.checksum)
        if old.url != self.url or old.size is None or have > old.size or not noticed:
            return Version(), 0
        return old, have

    def _failed(self, error: urllib.error.HTTPError) -> Exception:
        with error:
            if error.code == 416:
                self.forget()
                return BrokenError("the file there is shorter than what had come")
            if error.code not in WORTH_ANOTHER:
                return RefusedError(f"HTTP status {error.code} {error.reason}")
            asked = float(whole(error.headers["Retry-After"]) or 0)
            return BrokenError(f"HTTP status {error.code}", asked)

    def _receive(self, response: http.client.HTTPResponse, old: Version, have: int) -> None:
        headers = response.headers
        if headers.get_content_type() == "text/html" and not self.archive.is_page:
            raise WebPageError
        start, size = 0, whole(headers["Content-Length"])
        if response.status == 206:
            start, size = content_range(headers["Content-Range"] or "")
            if start and size is None:  # "/*": it says nothing, but did before
                size = old.size
        new = Version(self.url, headers["ETag"] or "", headers["Last-Modified"] or "", size)
        if start and (start != have or new.differs(old)):
            self.forget()
            raise BrokenError("the file there has changed")
        published = self.archive.size if self.archive.strict else None
        if published is not None and size not in (None, published):
            raise RefusedError(f"{size} bytes are offered, {published} are published")
        with written_below(self.part.parent):
            if not start:
                self.forget()
                write_json(self.notes, asdict(new))
            position = self._append(response, start, size or self.archive.size or 0)
        self.joined = start > 0
        if size is not None and position < size:
            raise BrokenError(f"the connection broke at {position} of {size} bytes")

    def _append(self, response: http.client.HTTPResponse, start: int, size: int) -> int:
        """Returns how long ``part`` is by now, of ``size``, or 0 where nobody told it."""
        free, missing = shutil.disk_usage(self.part.parent).free, size - start
        if missing > free:
            sizes = f"{missing / 1e6:.0f} MB are to come, {free / 1e6:.0f} MB are free"
            raise InputError(f"no space left below {self.part.parent}: {sizes}; make room")
        position = start
        with self.part.open("ab") as file:
            while chunk := receive(response):
                file.write(chunk)
                position += len(chunk)
                self.watch.reached(self.archive.name, position, max(size, position))
            file.flush()
            os.fsync(file.fileno())
        return position

    def _check(self) -> None:
        if is_web_page(self.part) and not self.archive.is_page:
            self.forget()
            raise WebPageError
        difference = self.archive.difference(self.part)
        if difference and not self.archive.strict:
            self.watch.say(f"{self.archive.name} {difference}; taken all the same, it is re-issued")
        elif difference:
            self.forget()
            kind = BrokenError if self.joined else RefusedError
            raise kind(f"what came {difference}; it was deleted")


def receive(response: http.client.HTTPResponse) -> bytes:
    """A failure to read is the network's, never the disk's that is written to."""
    try:
        return response.read1(CHUNK)
    except (OSError, http.client.HTTPException) as error:
        raise BrokenError(reason_of(error)) from None


def content_range(header: str) -> tuple[int, int | None]:
    """``bytes 100-999/1000`` -> 100 and 1000."""
    unit, _, rest = header.partition(" ")
    span, _, size = rest.partition("/")
    start = whole(span.partition("-")[0])
    if unit != "bytes" or start is None:
        raise RefusedError(f"its Content-Range {header!r} cannot be read")
    return start, whole(size)


def whole(text: str | None) -> int | None:
    return int(text) if text and text.isascii() and text.isdecimal() else None


def size_of(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0


def reason_of(error: Exception) -> str:
    reason = getattr(error, "reason", error)
    return f"the connection failed ({reason or type(error).__name__})"
