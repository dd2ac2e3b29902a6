import errno
import hashlib
import json
import shutil
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import segcore.acquisition.fetching
import segcore.acquisition.transfers
from segcore.acquisition.archives import Archive
from segcore.acquisition.fetching import plainly
from segcore.acquisition.transfers import RefusedError, Transfer, WebPageError
from segcore.acquisition.watch import Listener, StoppedError, Watch
from segcore.errors import InputError
from tests.range_server import RangeServer, Served, range_server

CONTENT = np.random.default_rng(0).bytes(700_000)
PATH = "/a.tar"


def digest(content: bytes, algorithm: str = "sha256") -> str:
    return f"{algorithm}:{hashlib.new(algorithm, content).hexdigest()}"


class Heard(Listener):
    def __init__(self) -> None:
        self.position, self.total, self.lowest = 0, 0, 0
        self.lines = list[str]()

    def advance(self, count: int, total: int) -> None:
        self.position, self.total = self.position + count, total
        self.lowest = min(self.lowest, count)

    def say(self, message: str) -> None:
        self.lines.append(message)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[RangeServer]:
    monkeypatch.setattr(segcore.acquisition.transfers, "PAUSE", 0.01)
    monkeypatch.setattr(segcore.acquisition.transfers, "LONGEST_PAUSE", 0.05)
    with range_server() as state:
        yield state


@pytest.fixture
def begin(server: RangeServer, tmp_path: Path) -> Callable[..., Transfer]:
    """A transfer of a served file to ``tmp_path/a.part``, and what its listener heard."""

    def build(served: Served, path: str = PATH, **archive: Any) -> Transfer:
        server.files[path] = served
        watch = Watch(Heard())
        entry = Archive("a.tar", **archive)
        return Transfer(entry, server.url + path, tmp_path / "a.part", plainly, watch)

    return build


def heard(transfer: Transfer) -> Any:
    return transfer.watch._listener


def test_a_file_comes_whole(begin, server):
    transfer = begin(Served(CONTENT), size=len(CONTENT), checksum=digest(CONTENT))
    transfer.run()
    assert transfer.part.read_bytes() == CONTENT
    assert server.asked(PATH) == [""]
    assert (heard(transfer).position, heard(transfer).total) == (len(CONTENT), len(CONTENT))


@pytest.mark.parametrize("algorithm", ["sha256", "sha1", "md5"])
def test_every_published_kind_of_checksum(begin, algorithm):
    begin(Served(CONTENT), checksum=digest(CONTENT, algorithm)).run()
    upper = digest(CONTENT, algorithm).replace(algorithm, "").upper()
    same = begin(Served(CONTENT), checksum=algorithm + upper)
    same.run()
    same.forget()
    with pytest.raises(RefusedError, match=f"has {algorithm} "):
        begin(Served(CONTENT[1:]), checksum=digest(CONTENT, algorithm)).run()


def test_a_broken_connection_is_continued_where_it_broke(begin, server):
    transfer = begin(Served(CONTENT, breaks=[100_000, 50_000, 0]), checksum=digest(CONTENT))
    transfer.run()
    assert transfer.part.read_bytes() == CONTENT
    assert server.asked(PATH) == ["", "bytes=100000-", "bytes=150000-", "bytes=150000-"]
    assert server.requests[1][1]["If-Range"] == '"one"'
    assert "broke at 100000 of 700000 bytes; again in" in heard(transfer).lines[0]
    assert heard(transfer).position == len(CONTENT)


def test_what_a_killed_process_left_is_continued(begin, server, tmp_path):
    whole = begin(Served(CONTENT))
    whole.run()
    with whole.part.open("r+b") as file:
        file.truncate(300_000)
    begin(Served(CONTENT)).run()
    assert whole.part.read_bytes() == CONTENT
    assert server.asked(PATH) == ["", "bytes=300000-"]


def test_a_part_that_is_whole_is_not_fetched_again(begin, server):
    begin(Served(CONTENT)).run()
    begin(Served(CONTENT)).run()
    assert server.asked(PATH) == [""]


@pytest.mark.parametrize("sums", [True, False])
def test_a_server_that_ignores_ranges_starts_again(begin, server, sums):
    checksum = digest(CONTENT) if sums else ""
    transfer = begin(Served(CONTENT, ranges=False, breaks=[100_000]), checksum=checksum)
    transfer.run()
    assert transfer.part.read_bytes() == CONTENT
    assert server.asked(PATH) == ["", "bytes=100000-"]
    assert heard(transfer).lowest < 0, "the bar has to go back"
    assert heard(transfer).position == len(CONTENT)


@pytest.mark.parametrize("sums", [True, False])
def test_a_range_of_a_file_whose_size_is_not_told_again(begin, server, sums):
    """``Content-Range: bytes 100000-699999/*``: the first answer said how long the file is."""
    checksum = digest(CONTENT) if sums else ""
    transfer = begin(Served(CONTENT, breaks=[100_000, 50_000]), checksum=checksum)
    opened = transfer.opened

    def silent(request: urllib.request.Request) -> Any:
        response = opened(request)
        if told := response.headers["Content-Range"]:
            response.headers.replace_header("Content-Range", told.replace("/700000", "/*"))
        return response

    transfer.opened = silent
    transfer.run()
    assert transfer.part.read_bytes() == CONTENT
    assert server.asked(PATH) == ["", "bytes=100000-", "bytes=150000-"]
    assert "broke at 150000 of 700000 bytes" in heard(transfer).lines[1]


NEWER = CONTENT[::-1]


@pytest.mark.parametrize(
    "changed",
    [
        Served(NEWER, etag='"two"'),
        Served(NEWER, etag='"two"', conditional=False),
        Served(NEWER, etag="", modified="Thu, 22 Oct 2015 07:28:00 GMT", conditional=False),
        Served(NEWER[:-5], conditional=False),
        Served(NEWER[:1000]),
        Served(NEWER[:1000], conditional=False),
    ],
)
def test_a_file_that_changed_meanwhile_starts_again(begin, changed):
    transfer = begin(Served(CONTENT))
    transfer.run()
    with transfer.part.open("r+b") as file:
        file.truncate(300_000)
    transfer = begin(changed)
    transfer.run()
    assert transfer.part.read_bytes() == changed.content


def test_a_weak_tag_is_no_condition(begin, server):
    transfer = begin(Served(CONTENT, etag='W/"one"', breaks=[100_000]))
    transfer.run()
    assert transfer.part.read_bytes() == CONTENT
    assert server.requests[1][1]["If-Range"] == "Wed, 21 Oct 2015 07:28:00 GMT"


def test_without_version_and_checksum_nothing_is_continued(begin, server):
    bare: dict[str, Any] = {"etag": "", "modified": ""}
    begin(Served(CONTENT, breaks=[100_000], **bare)).run()
    assert server.asked(PATH) == ["", ""]
    begin(Served(CONTENT, breaks=[100_000], **bare), "/b", checksum=digest(CONTENT)).run()
    assert server.asked("/b") == ["", "bytes=100000-"]


def test_notes_that_were_cut_short_start_again(begin, server):
    transfer = begin(Served(CONTENT))
    for notes in ("", "{", '{"url": 1, "form": 2}'):
        transfer.part.write_bytes(b"x" * 10)
        transfer.notes.write_text(notes)
        begin(Served(CONTENT)).run()
        assert transfer.part.read_bytes() == CONTENT
        transfer.forget()
    assert server.asked(PATH) == ["", "", ""]


def test_a_joined_file_that_is_wrong_is_fetched_once_more_in_one_piece(begin, server):
    """The server swaps the file and says nothing of it: only the checksum tells."""
    transfer = begin(Served(CONTENT))
    transfer.run()
    transfer.part.write_bytes(b"x" * 1000)
    transfer = begin(Served(CONTENT), checksum=digest(CONTENT))
    transfer.run()
    assert transfer.part.read_bytes() == CONTENT
    assert server.asked(PATH) == ["", "bytes=1000-", ""]


def test_a_file_without_length_comes_whole_or_starts_again(begin, server):
    transfer = begin(Served(CONTENT, length=False, breaks=[200_000]))
    transfer.run()
    assert transfer.part.read_bytes() == CONTENT
    assert server.asked(PATH) == ["", ""]


@pytest.mark.parametrize("wrong", [{"checksum": digest(b"other")}, {"size": 5}])
def test_a_wrong_file_is_refused_and_leaves_nothing(begin, tmp_path, server, wrong):
    with pytest.raises(RefusedError, match=r"published"):
        begin(Served(CONTENT), **wrong).run()
    assert list(tmp_path.iterdir()) == []
    assert len(server.requests) == 1, "a second attempt would bring the same"


def test_a_size_that_was_not_told_is_checked_too(begin, tmp_path):
    with pytest.raises(RefusedError, match="700000 bytes, 800000 are published"):
        begin(Served(CONTENT, length=False), size=800_000).run()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("wrong", [{"checksum": digest(b"other")}, {"size": 5}])
def test_a_reissued_file_is_only_warned_about(begin, wrong):
    transfer = begin(Served(CONTENT), strict=False, **wrong)
    transfer.run()
    assert transfer.part.read_bytes() == CONTENT
    (line,) = heard(transfer).lines
    assert "a.tar has" in line
    assert "taken all the same" in line


@pytest.mark.parametrize("status", [404, 403, 410, 401])
def test_a_refusal_is_final(begin, server, status):
    with pytest.raises(RefusedError, match=f"HTTP status {status}"):
        begin(Served(CONTENT, statuses=[status])).run()
    assert len(server.requests) == 1


def test_a_busy_server_is_asked_again(begin, server):
    transfer = begin(Served(CONTENT, statuses=[503, 429, 500, 502], retry_after="7"))
    transfer.run()
    assert transfer.part.read_bytes() == CONTENT
    assert len(server.requests) == 5
    with pytest.raises(RefusedError, match="HTTP status 503, 5 times"):
        begin(Served(CONTENT, statuses=[503] * 9), "/b").run()


def test_pauses_double_follow_the_server_and_are_bounded(begin, monkeypatch):
    monkeypatch.setattr(segcore.acquisition.transfers, "PAUSE", 1.0)
    monkeypatch.setattr(segcore.acquisition.transfers, "LONGEST_PAUSE", 60.0)
    pauses = list[float]()
    transfer = begin(Served(CONTENT, statuses=[503] * 9))
    monkeypatch.setattr(transfer.watch, "pause", pauses.append)
    with pytest.raises(RefusedError):
        transfer.run()
    assert pauses == [1.0, 2.0, 4.0, 8.0]
    pauses.clear()
    patient = begin(Served(CONTENT, statuses=[503] * 4, retry_after="900"))
    monkeypatch.setattr(patient.watch, "pause", lambda s: pauses.append(s) if s else None)
    patient.run()
    assert pauses == [60.0] * 4


def test_a_long_file_over_a_bad_line_comes_as_long_as_it_gets_on(begin, monkeypatch):
    monkeypatch.setattr(segcore.acquisition.transfers, "PROGRESS", 30_000)
    begin(Served(CONTENT, breaks=[30_000] * 15)).run()
    monkeypatch.setattr(segcore.acquisition.transfers, "PROGRESS", 30_001)
    with pytest.raises(RefusedError, match="broke at 150000 of 700000 bytes, 5 times"):
        begin(Served(CONTENT, breaks=[30_000] * 15), "/b").run()


def test_nobody_listens(begin, tmp_path):
    transfer = begin(Served(CONTENT))
    transfer.url = "http://127.0.0.1:9/a.tar"
    with pytest.raises(RefusedError, match=r"connection failed \(.*refused\), 5 times"):
        transfer.run()
    assert not transfer.part.exists()


def test_no_network_is_told(begin):
    transfer = begin(Served(CONTENT))
    transfer.url = "http://data.example.org/a.tar"
    with pytest.raises(RefusedError, match="the tests use no network"):
        transfer.run()


def test_a_silent_server_is_a_broken_connection(begin, monkeypatch, server):
    monkeypatch.setattr(segcore.acquisition.fetching, "SECONDS_OF_SILENCE", 0.1)
    monkeypatch.setattr(segcore.acquisition.transfers, "ATTEMPTS", 1)
    with pytest.raises(RefusedError, match="timed out"):
        begin(Served(CONTENT, pause=0.5)).run()


PAGE = b"\n <!DOCTYPE HTML>\n<html>log in</html>"


@pytest.mark.parametrize("served", [Served(PAGE, kind="text/html; charset=utf-8"), Served(PAGE)])
@pytest.mark.parametrize("strict", [True, False])
def test_a_web_page_is_no_file(begin, tmp_path, served, strict):
    with pytest.raises(WebPageError, match="web page"):
        begin(served, strict=strict).run()
    assert list(tmp_path.iterdir()) == []


def test_a_disk_too_small_is_told_before_it_is_full(begin, monkeypatch, tmp_path):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=100_000))
    with pytest.raises(InputError, match=rf"{tmp_path}: 1 MB are to come, 0 MB are free"):
        begin(Served(CONTENT)).run()


def test_a_full_disk_names_the_place_and_keeps_what_came(begin, monkeypatch, tmp_path):
    transfer = begin(Served(CONTENT))
    reached = transfer.watch.reached

    def full(name: str, position: int, total: int) -> None:
        if position > 100_000:
            raise OSError(errno.ENOSPC, "No space left on device")
        reached(name, position, total)

    monkeypatch.setattr(transfer.watch, "reached", full)
    with pytest.raises(InputError, match=f"no space left below {tmp_path}; make room"):
        transfer.run()
    monkeypatch.undo()
    kept = transfer.part.stat().st_size
    assert kept
    begin(Served(CONTENT)).run()
    assert transfer.part.read_bytes() == CONTENT


def test_a_stop_ends_it_and_the_next_run_goes_on(begin, server):
    transfer = begin(Served(CONTENT))
    reached, begun = transfer.watch.reached, list[int]()

    def stop(name: str, position: int, total: int) -> None:
        begun.append(position)
        transfer.watch.stop()
        reached(name, position, total)

    transfer.watch.reached = stop
    with pytest.raises(StoppedError):
        transfer.run()
    begin(Served(CONTENT)).run()
    assert transfer.part.read_bytes() == CONTENT
    assert server.asked(PATH) == ["", f"bytes={begun[0]}-"]


def test_the_version_is_noted_before_the_first_byte(begin):
    transfer = begin(Served(CONTENT, breaks=[0]))
    transfer._check = lambda: None
    opened = transfer.opened

    def once(request: urllib.request.Request) -> Any:
        assert not transfer.notes.exists()
        return opened(request)

    transfer.opened = once
    with pytest.raises(segcore.acquisition.transfers.BrokenError):
        transfer._connect()
    assert json.loads(transfer.notes.read_text()) == {
        "url": transfer.url,
        "etag": '"one"',
        "modified": "Wed, 21 Oct 2015 07:28:00 GMT",
        "size": len(CONTENT),
    }
