"""A local HTTP server that gives ranges, and that misbehaves where a test says so."""

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from email.message import Message
from hashlib import md5
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit


@dataclass
class Served:
    """One file and how it is served; the lists are used up, an entry per request."""

    content: bytes
    etag: str = '"one"'
    modified: str = "Wed, 21 Oct 2015 07:28:00 GMT"
    kind: str = "application/octet-stream"
    ranges: bool = True
    """False: Range is ignored, as simple servers do; the whole file comes, status 200."""
    length: bool = True
    """False: sent in chunks, its length not told."""
    conditional: bool = True
    """False: If-Range is ignored, the range comes whatever the version."""
    breaks: list[int] = field(default_factory=list)
    """Bytes after which the connection is cut."""
    statuses: list[int] = field(default_factory=list)
    """Statuses instead of the file."""
    retry_after: str = ""
    pause: float = 0.0
    """Seconds between pieces of 64 kB."""


@dataclass
class Site:
    """The parts of cityscapes-dataset.com that a downloader meets."""

    username: str
    password: str
    packages: dict[str, bytes]
    ends: list[int] = field(default_factory=list)
    """Bytes of a file after which the connection is cut and the session ends, per request."""
    checksums: bool = True
    sessions: set[str] = field(default_factory=set)
    logins: int = 0


@dataclass
class RangeServer:
    url: str
    files: dict[str, Served] = field(default_factory=dict)
    requests: list[tuple[str, Message]] = field(default_factory=list)
    """Path and headers of every request for a file."""
    site: Site | None = None

    def asked(self, path: str) -> list[str]:
        """The Range header of every request for a file."""
        return [headers.get("Range", "") for asked, headers in self.requests if asked == path]


class _Handler(BaseHTTPRequestHandler):
    state: RangeServer
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_GET(self) -> None:
        self.close_connection = True
        parts = urlsplit(self.path)
        if self.state.site and self._site(self.state.site, parts.path, parse_qs(parts.query, True)):
            return
        self.state.requests.append((parts.path, self.headers))
        served = self.state.files.get(parts.path)
        if served is None:
            self._answer(404, b"nothing here", "text/plain")
        elif served.statuses:
            retry = {"Retry-After": served.retry_after} if served.retry_after else {}
            self._answer(served.statuses.pop(0), b"not now", "text/plain", retry)
        else:
            self._file(served)

    def do_POST(self) -> None:
        self.close_connection = True
        site = self.state.site
        assert site
        site.logins += 1
        sent = parse_qs(self.rfile.read(int(self.headers["Content-Length"])).decode())
        right = {"username": [site.username], "password": [site.password], "submit": ["Login"]}
        if sent != right or "form=1" not in self.headers.get("Cookie", ""):
            self._answer(200, b"<html>wrong, try again</html>", "text/html")
            return
        session = f"s{site.logins}"
        site.sessions.add(session)
        headers = {"Location": f"{self.state.url}/elsewhere", "Set-Cookie": f"session={session}"}
        self._answer(302, b"", "text/html", headers)

    def _site(self, site: Site, path: str, query: dict[str, list[str]]) -> bool:
        """Answers what the account's site would; False for other paths."""
        names = list(site.packages)
        if path == "/login":
            self._answer(200, b"<html>form</html>", "text/html", {"Set-Cookie": "form=1"})
        elif not any(f"session={one}" in self.headers.get("Cookie", "") for one in site.sessions):
            self._answer(200, b"<!DOCTYPE html><html>log in first</html>", "text/html")
        elif path == "/downloads/":
            listed = [{"name": n, "packageID": str(i), "size": "1KB"} for i, n in enumerate(names)]
            self._answer(200, json.dumps(listed).encode(), "application/json")
        elif path == "/md5-sum/":
            name = names[int(query["packageID"][0])]
            stated = f"{md5(site.packages[name]).hexdigest()} {name}" if site.checksums else "none"
            self._answer(200, stated.encode(), "text/plain")
        elif path == "/file-handling/":
            name = names[int(query["packageID"][0])]
            self.state.requests.append((f"/{name}", self.headers))
            cut = [site.ends.pop(0)] if site.ends else []
            if cut:
                site.sessions.clear()
            self._file(Served(site.packages[name], breaks=cut))
        else:
            return False
        return True

    def _file(self, served: Served) -> None:
        content, start, asked = served.content, 0, self.headers.get("Range", "")
        condition = self.headers.get("If-Range", "")
        same = condition in ("", served.etag, served.modified) or not served.conditional
        if asked and served.ranges and same:
            start = int(asked.removeprefix("bytes=").removesuffix("-"))
        if start >= len(content) and start:
            self._answer(416, b"", "text/plain", {"Content-Range": f"bytes */{len(content)}"})
            return
        body = content[start:]
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        for name, value in ("ETag", served.etag), ("Last-Modified", served.modified):
            if value:
                self.send_header(name, value)
        self.send_header("Content-Type", served.kind)
        if served.length:
            self.send_header("Content-Length", str(len(body)))
        else:
            self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        self._pieces(served, body[: served.breaks.pop(0)] if served.breaks else body, len(body))

    def _pieces(self, served: Served, body: bytes, whole: int) -> None:
        try:
            for begin in range(0, len(body), 1 << 16):
                piece = body[begin : begin + (1 << 16)]
                if not served.length:
                    piece = b"%x\r\n%s\r\n" % (len(piece), piece)
                self.wfile.write(piece)
                self.wfile.flush()
                time.sleep(served.pause)
            if not served.length and len(body) == whole:
                self.wfile.write(b"0\r\n\r\n")
        except OSError:
            pass  # the other side was killed

    def _answer(
        self, status: int, body: bytes, kind: str, headers: dict[str, str] | None = None
    ) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


@contextmanager
def range_server() -> Iterator[RangeServer]:
    """A server on this machine while the block runs."""
    state = RangeServer("")
    handler = type("Handler", (_Handler,), {"state": state})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        state.url = f"http://127.0.0.1:{server.server_address[1]}"
        thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        try:
            yield state
        finally:
            server.shutdown()
            thread.join()
