"""Cityscapes gives files to people with an account; a server of the test plays the site."""

import gc
import http.client
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

import segcore.acquisition.accounts
import segcore.acquisition.transfers
from segcore.acquisition import bring
from segcore.acquisition.accounts import VARIABLES, Account
from segcore.acquisition.archives import Archive
from segcore.errors import InputError
from tests.acquisition.test_acquisition import raw_tree
from tests.acquisition.test_archives import zip_bytes
from tests.acquisition.test_transfers import Heard, digest
from tests.range_server import RangeServer, Site, range_server

USERNAME, PASSWORD = "ada@example.org", "corréct/horse&battery"
TREE = {"gtFine/train/aachen/1.png": b"1", "README": b"terms"}
IMAGES = {"leftImg8bit/1.png": np.random.default_rng(0).bytes(300_000)}


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[RangeServer]:
    monkeypatch.setattr(segcore.acquisition.transfers, "PAUSE", 0.01)
    monkeypatch.setenv("CITYSCAPES_USERNAME", USERNAME)
    monkeypatch.setenv("CITYSCAPES_PASSWORD", PASSWORD)
    with range_server() as state:
        packages = {"gtFine.zip": zip_bytes(TREE), "left.zip": zip_bytes(IMAGES)}
        state.site = Site(USERNAME, PASSWORD, packages)
        monkeypatch.setattr(segcore.acquisition.accounts, "SITE", state.url)
        yield state


@pytest.fixture
def brought(tmp_path: Path) -> Callable[..., Heard]:
    def run(*names: str, checksum: str = "") -> Heard:
        heard = Heard()
        archives = tuple(Archive(n, package=n, checksum=checksum, strict=False) for n in names)
        bring(archives, tmp_path / "raw", tmp_path / "drop", "https://home.org", heard)
        return heard

    return run


def test_files_come_after_one_login(brought, server, tmp_path):
    heard = brought("gtFine.zip", "left.zip")
    assert raw_tree(tmp_path / "raw") == TREE | IMAGES
    assert server.site.logins == 1
    assert heard.position == sum(map(len, server.site.packages.values()))


def test_a_broken_connection_is_continued(brought, server, tmp_path):
    server.site.ends = []
    whole = server.site.packages["left.zip"]
    brought("left.zip")
    assert server.asked("/left.zip") == [""]
    (kept,) = (tmp_path / "downloads").glob("*left.zip")
    assert kept.read_bytes() == whole


def test_a_session_that_ends_is_renewed_and_the_file_continued(brought, server, tmp_path):
    server.site.ends = [100_000]
    brought("left.zip")
    assert raw_tree(tmp_path / "raw") == IMAGES
    assert server.site.logins == 2
    assert server.asked("/left.zip") == ["", "bytes=100000-"]


def test_the_checksum_of_the_site_counts_more_than_the_published_one(brought, server, monkeypatch):
    lines = brought("gtFine.zip", checksum="sha1:00").lines
    assert lines == ["gtFine.zip: unpacking"]
    monkeypatch.setattr(server.site, "checksums", False)
    lines = brought("left.zip", checksum="sha1:00").lines
    assert "taken all the same" in lines[0]


def test_a_damaged_file_is_found_by_the_sites_checksum(brought, server, monkeypatch, tmp_path):
    def stated(self: Account, path: str, text=Account._text) -> str:
        return "0" * 32 + " gtFine.zip" if "md5" in path else text(self, path)

    monkeypatch.setattr(Account, "_text", stated)
    with pytest.raises(InputError, match=r"has md5 .*, 0{32} is published; it was deleted"):
        brought("gtFine.zip")
    assert raw_tree(tmp_path / "raw") == {}


@pytest.mark.parametrize("missing", [VARIABLES, VARIABLES[:1], VARIABLES[1:]])
def test_without_account_the_remedy_is_said(brought, server, tmp_path, monkeypatch, missing):
    for name in missing:
        monkeypatch.delenv(name)
    with pytest.raises(InputError) as raised:
        brought("gtFine.zip", "left.zip")
    assert str(raised.value).split("\n")[:3] == [
        "gtFine.zip cannot be fetched:",
        f"    needs an account: register at {server.url}/register/ and set CITYSCAPES_USERNAME and"
        " CITYSCAPES_PASSWORD",
        f"    get it from https://home.org and put it into {tmp_path}/drop",
    ]
    assert "\n  left.zip cannot be fetched:" in str(raised.value)
    assert server.site.logins == 0


def test_a_wrong_password_is_tried_once(brought, server, monkeypatch):
    monkeypatch.setenv("CITYSCAPES_PASSWORD", "wrong-horse")
    with pytest.raises(InputError, match=r"account was refused \(HTTP status 200\); check CITY"):
        brought("gtFine.zip", "left.zip")
    assert server.site.logins == 1, "more would lock the account"


def test_an_unknown_package_gets_a_suggestion(brought, server):
    with pytest.raises(InputError, match=r"no 'gtFin.zip'; did you mean 'gtFine.zip'"):
        brought("gtFin.zip")


def test_a_site_that_cannot_be_reached(brought, monkeypatch, server, tmp_path):
    monkeypatch.setattr(segcore.acquisition.accounts, "SITE", "http://127.0.0.1:9")
    with pytest.raises(InputError, match=r"http://127.0.0.1:9/login: the connection failed") as e:
        brought("gtFine.zip")
    assert f"into {tmp_path}/drop" in str(e.value)


def test_a_list_that_is_none(brought, server, monkeypatch):
    monkeypatch.setattr(server.site, "sessions", set())
    monkeypatch.setattr(Account, "_log_in", lambda self: None)
    with pytest.raises(InputError, match=r"list of files, .*, is no list"):
        brought("gtFine.zip")


def everything_said(error: BaseException) -> str:
    chain, one = list[str](), error
    while one:
        chain += ["".join(traceback.format_exception(one)), repr(vars(one))]
        one = one.__cause__ or one.__context__
    return "".join(chain)


@pytest.mark.parametrize("trouble", ["none", "login", "list", "file", "http", "page"])
def test_the_account_is_nowhere(brought, server, tmp_path, monkeypatch, capfd, caplog, trouble):
    """Neither in output, logs, files, exceptions nor in an object that outlives the login."""
    caplog.set_level(0)
    if trouble == "login":
        monkeypatch.setattr(server.site, "password", "another")
    if trouble == "list":
        monkeypatch.setattr(Account, "_list", lambda self: self._refuse("no list"))
    if trouble == "file":
        monkeypatch.setattr(server.site, "packages", {"other.zip": b""})
    if trouble == "page":
        monkeypatch.setattr(server.site, "ends", [10] * 9)
    if trouble == "http":

        def refuse(*_: object) -> None:
            raise http.client.BadStatusLine("no HTTP")

        monkeypatch.setattr("urllib.request.HTTPHandler.http_open", refuse)
    kept, build = list[Account](), Account.__init__
    monkeypatch.setattr(Account, "__init__", lambda self: (kept.append(self), build(self))[1])
    said = ""
    try:
        said = "\n".join(brought("gtFine.zip").lines)
        assert trouble == "none"
    except InputError as error:
        said = everything_said(error)
        assert trouble != "none"
    output = capfd.readouterr()
    said += output.out + output.err + caplog.text
    for path in tmp_path.rglob("*"):
        said += path.name + (path.read_bytes().decode(errors="replace") if path.is_file() else "")
    (account,) = kept
    said += "".join(repr(found) for found in reachable(account))
    for secret in USERNAME, "corr", "horse", "ada%40example", "battery":
        assert secret not in said


def reachable(start: object) -> list[object]:
    """Every string, bytes and number below an object that the program keeps."""
    seen, found, waiting = set[int](), list[object](), [start]
    while waiting:
        one = waiting.pop()
        if id(one) in seen or isinstance(one, type) or callable(one):
            continue
        seen.add(id(one))
        if isinstance(one, (str, bytes, bytearray)):
            found.append(one)
        elif type(one).__module__ != "sys":
            waiting += [each for each in gc.get_referents(one) if type(each).__name__ != "module"]
    return found


def test_reachable_would_find_it(server):
    account = Account()
    account.resolve(Archive("gtFine.zip", package="gtFine.zip"))
    assert not any("ada@" in str(found) for found in reachable(account))
    account.__dict__["kept"] = {"form": [USERNAME]}
    assert any("ada@" in str(found) for found in reachable(account))


def test_the_password_is_not_sent_along_a_redirect(brought, server):
    """The login answers with a redirect; nobody follows it."""
    brought("gtFine.zip")
    assert [path for path, _ in server.requests] == ["/gtFine.zip"]


def test_the_checksum_is_of_the_package(server):
    archive = Archive("x.zip", package="left.zip", checksum="sha1:00", size=5, strict=False)
    url, stated = Account().resolve(archive)
    assert url == f"{server.url}/file-handling/?packageID=1"
    assert stated.checksum == digest(server.site.packages["left.zip"], "md5")
    assert (stated.strict, stated.size) == (True, None)
