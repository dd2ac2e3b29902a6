import errno
import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import segcore.acquisition.transfers
import segcore.acquisition.unpacking
from segcore.acquisition import bring
from segcore.acquisition.archives import Archive
from segcore.acquisition.fetching import held
from segcore.acquisition.watch import NOBODY, StoppedError, Watch
from segcore.errors import InputError
from tests.acquisition.test_archives import tar_bytes, tree_of, zip_bytes
from tests.acquisition.test_transfers import Heard, digest
from tests.range_server import RangeServer, Served, range_server

IMAGES = {"set/images/1.jpg": b"one", "set/images/2.jpg": b"two", "set/README": b"images"}
LABELS = {"set/labels/1.png": b"1", "set/labels/2.png": b"2", "set/README": b"labels!"}
TREES = "set/images", "set/labels"


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[RangeServer]:
    monkeypatch.setattr(segcore.acquisition.transfers, "PAUSE", 0.01)
    monkeypatch.setattr(segcore.acquisition.transfers, "LONGEST_PAUSE", 0.02)
    with range_server() as state:
        state.files["/images.tgz"] = Served(tar_bytes(IMAGES, "w:gz"))
        state.files["/labels.zip"] = Served(zip_bytes(LABELS))
        yield state


def served(server: RangeServer, name: str, **more: Any) -> Archive:
    content = server.files[f"/{name}"].content
    known = {"size": len(content), "checksum": digest(content)} | more
    return Archive(name, (f"{server.url}/{name}",), **known)


@pytest.fixture
def both(server: RangeServer) -> tuple[Archive, Archive]:
    images, labels = TREES
    return (
        served(server, "images.tgz", trees=(images,)),
        served(server, "labels.zip", trees=(labels,)),
    )


@pytest.fixture
def brought(tmp_path: Path) -> Callable[..., dict[str, bytes]]:
    """What lies below ``raw`` when the archives have come."""

    def run(*archives: Archive, listener: Any = NOBODY) -> dict[str, bytes]:
        bring(archives, tmp_path / "raw", tmp_path / "drop", "https://home.org", listener)
        return raw_tree(tmp_path / "raw")

    (tmp_path / "drop").mkdir()
    return run


def raw_tree(raw: Path) -> dict[str, bytes]:
    found = tree_of(raw)
    return {name: content for name, content in found.items() if not name.startswith(".unpacked/")}


def without_readme(*trees: dict[str, bytes]) -> dict[str, bytes]:
    return {k: v for tree in trees for k, v in tree.items() if "README" not in k}


def ask(server: RangeServer) -> int:
    return len(server.requests)


def test_archives_are_fetched_and_unpacked_together(brought, both, server, tmp_path):
    heard = Heard()
    tree = brought(*both, listener=heard)
    assert without_readme(tree) == without_readme(IMAGES, LABELS)
    assert tree["set/README"] in (b"images", b"labels!")
    assert heard.position == heard.total == sum(len(s.content) for s in server.files.values())
    kept = (path.name for path in (tmp_path / "downloads").iterdir() if path.suffix != ".lock")
    assert sorted(name.split("-", 1)[1] for name in kept) == ["images.tgz", "labels.zip"]


def test_what_is_there_is_left_alone(brought, both, server, tmp_path):
    tree = brought(*both)
    image = tmp_path / "raw/set/images/1.jpg"
    stamp = image.stat().st_mtime_ns
    shutil.rmtree(tmp_path / "downloads")
    heard = Heard()
    assert brought(*both, listener=heard) == tree
    assert (ask(server), image.stat().st_mtime_ns, heard.lines) == (2, stamp, [])


def test_what_was_deleted_is_unpacked_again_without_fetching(brought, both, server, tmp_path):
    brought(*both)
    (tmp_path / "raw/set/labels/2.png").unlink()
    assert brought(*both)["set/labels/2.png"] == b"2"
    assert ask(server) == 2


def test_another_dataset_finds_the_file(server, both, tmp_path):
    for name in ("one", "two"):
        bring(both[:1], tmp_path / name, tmp_path / "drop", "", NOBODY)
        assert raw_tree(tmp_path / name) == IMAGES
    assert ask(server) == 1


def test_files_of_one_name_and_two_origins_do_not_meet(server, tmp_path):
    server.files["/other/images.tgz"] = Served(tar_bytes(LABELS, "w:gz"))
    for path, tree in ("/images.tgz", IMAGES), ("/other/images.tgz", LABELS):
        archive = Archive("images.tgz", (server.url + path,))
        bring((archive,), tmp_path / path[1:3], tmp_path / "drop", "", NOBODY)
        assert raw_tree(tmp_path / path[1:3]) == tree


def test_a_damaged_copy_among_the_downloads_is_fetched_again(brought, both, server, tmp_path):
    brought(both[0])
    (kept,) = (tmp_path / "downloads").glob("*.tgz")
    kept.write_bytes(b"x" * kept.stat().st_size)
    shutil.rmtree(tmp_path / "raw")
    assert brought(both[0]) == IMAGES
    assert ask(server) == 2


def test_mirrors_in_order(brought, server):
    server.files |= {
        "/gone": Served(b"", statuses=[404] * 9),
        "/wrong": Served(tar_bytes(LABELS)),
        "/page": Served(b"<html>", kind="text/html"),
        "/busy": Served(b"", statuses=[503] * 9),
    }
    paths = "/gone", "/wrong", "/page", "/busy", "/images.tgz", "/labels.zip"
    urls = tuple(server.url + path for path in paths)
    archive = Archive("images.tgz", urls, checksum=served(server, "images.tgz").checksum)
    assert brought(archive) == IMAGES
    assert [path for path, _ in server.requests] == [*paths[:3], *["/busy"] * 5, "/images.tgz"]


def test_every_failure_and_the_remedy_in_one_message(brought, server, tmp_path):
    server.files |= {"/a": Served(b"", statuses=[404]), "/b": Served(b"?", kind="text/html")}
    fails = Archive("a.zip", (f"{server.url}/a", f"{server.url}/b"), trees=("a",))
    also = Archive("c.zip", ("http://data.example.org/c.zip",))
    by_hand = Archive("lip.zip")
    good = served(server, "images.tgz")
    heard = Heard()
    with pytest.raises(InputError) as raised:
        brought(fails, also, by_hand, good, listener=heard)
    drop = tmp_path / "drop"
    assert str(raised.value).split("\n") == [
        "a.zip cannot be fetched:",
        f"    {server.url}/a: HTTP status 404 Not Found",
        f"    {server.url}/b: a web page came instead of the file",
        f"    get it from https://home.org and put it, packed or unpacked, into {drop}",
        "  c.zip cannot be fetched:",
        "    http://data.example.org/c.zip: the connection failed ([Errno -2] the tests use no"
        " network: 'data.example.org'), 5 times",
        f"    get it from https://home.org and put it into {drop}",
        "  lip.zip cannot be fetched by a program: get it from https://home.org and put it into"
        f" {drop}",
    ]
    at_once = any("lip.zip cannot be fetched by a program" in line for line in heard.lines)
    assert at_once, "not only at the end"
    assert raw_tree(tmp_path / "raw") == IMAGES, "what could be had is kept"


@pytest.mark.parametrize("content", [b"no archive at all", tar_bytes(IMAGES)[:1024]])
def test_a_bad_archive_without_checksum_is_not_kept(brought, server, tmp_path, content):
    server.files["/x.tar"] = Served(content)
    with pytest.raises(InputError, match=r"x.tar .*(neither|cut short)"):
        brought(Archive("x.tar", (f"{server.url}/x.tar",)))
    assert not list((tmp_path / "downloads").glob("*.tar"))
    assert raw_tree(tmp_path / "raw") == {}
    server.files["/x.tar"] = Served(tar_bytes(IMAGES), etag='"mended"')
    assert brought(Archive("x.tar", (f"{server.url}/x.tar",))) == IMAGES


def test_a_plain_file_and_a_folder_of_its_own(brought, server):
    server.files["/list.txt"] = Served(b"1\n2\n", kind="text/plain")
    listed = served(server, "list.txt", unpack=False, folder="lists/all")
    assert brought(listed, served(server, "images.tgz", folder="in")) == {
        "lists/all/list.txt": b"1\n2\n",
        **{f"in/{name}": content for name, content in IMAGES.items()},
    }


def test_a_folder_that_unpacks_over_our_notes(brought, server):
    server.files["/x.tar"] = Served(tar_bytes({".unpacked/images.tgz.json": b"{}"}))
    with pytest.raises(InputError, match=r"x.tar holds '.unpacked'"):
        brought(served(server, "x.tar"))


# --- the drop folder -----------------------------------------------------------------------------


def test_archives_of_the_drop_folder(brought, both, server, tmp_path):
    (tmp_path / "drop/images.tgz").write_bytes(server.files["/images.tgz"].content)
    (tmp_path / "drop/labels.zip").write_bytes(server.files["/labels.zip"].content)
    assert without_readme(brought(*both)) == without_readme(IMAGES, LABELS)
    assert ask(server) == 0
    assert not (tmp_path / "downloads").exists(), "no second copy of them"


def unpacked(folder: Path, tree: dict[str, bytes]) -> None:
    for name, content in tree.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)


def test_a_tree_of_the_drop_folder_beside_an_archive(brought, both, server, tmp_path):
    unpacked(tmp_path / "drop", IMAGES | {"set/other/huge.bin": b"not ours"})
    (tmp_path / "drop/labels.zip").write_bytes(server.files["/labels.zip"].content)
    tree = brought(*both)
    assert tree == without_readme(IMAGES) | LABELS
    assert ask(server) == 0
    image = tmp_path / "drop/set/images/1.jpg"
    assert image.stat().st_nlink == 1
    image.write_bytes(b"changed")
    assert raw_tree(tmp_path / "raw")["set/images/1.jpg"] == b"one", "a copy, not a link"
    assert brought(*both)["set/images/1.jpg"] == b"changed", "the next download sees it"


def test_a_tree_that_is_a_link_to_another_disk(brought, both, tmp_path):
    unpacked(tmp_path / "far", IMAGES)
    (tmp_path / "drop/set").mkdir()
    (tmp_path / "drop/set/images").symlink_to(tmp_path / "far/set/images")
    assert brought(both[0]) == without_readme(IMAGES)
    assert not (tmp_path / "raw/set/images").is_symlink()


def test_the_drop_folder_may_be_emptied_afterwards(brought, both, server, tmp_path):
    unpacked(tmp_path / "drop", IMAGES)
    tree = brought(both[0])
    shutil.rmtree(tmp_path / "drop")
    assert brought(both[0]) == tree
    assert ask(server) == 0


def test_a_newer_version_replaces_the_older_one(brought, tmp_path):
    archive = Archive("x.zip")
    other = Archive("y.zip")
    (tmp_path / "drop/y.zip").write_bytes(zip_bytes({"set/README": b"y"}))
    (tmp_path / "drop/x.zip").write_bytes(zip_bytes({"set/old": b"1", "set/README": b"x"}))
    brought(archive, other)
    (tmp_path / "drop/x.zip").write_bytes(zip_bytes({"set/new": b"22"}))
    tree = brought(archive, other)
    assert set(tree) == {"set/new", "set/README"}, "what another archive brought stays"


def test_a_wrong_file_in_the_drop_folder_is_named_and_stays(brought, both, server, tmp_path):
    wrong = tmp_path / "drop/images.tgz"
    wrong.write_bytes(b"x" * len(server.files["/images.tgz"].content))
    with pytest.raises(InputError, match=rf"{wrong} has sha256 .* is published; get it again, or"):
        brought(*both)
    assert wrong.exists()
    assert ask(server) == 1, "the other one comes all the same"


def test_a_reissued_file_in_the_drop_folder_is_taken(brought, tmp_path):
    (tmp_path / "drop/x.zip").write_bytes(zip_bytes(IMAGES))
    heard = Heard()
    archive = Archive("x.zip", checksum="sha1:00", strict=False)
    assert brought(archive, listener=heard) == IMAGES
    assert any("taken all the same" in line for line in heard.lines)


def test_a_name_that_the_publisher_makes_up(brought, tmp_path):
    (tmp_path / "drop/An_o5Kx.zip").write_bytes(zip_bytes(IMAGES))
    (tmp_path / "drop/notes.txt").write_text("mine")
    assert brought(Archive("*")) == IMAGES
    (tmp_path / "drop/older.zip").write_bytes(zip_bytes(IMAGES))
    with pytest.raises(InputError, match=r"An_o5Kx.zip, older.zip; leave the one that"):
        brought(Archive("*"))


def test_a_tree_in_folders_that_nobody_can_know(brought, tmp_path):
    unpacked(tmp_path / "drop/mine/deeper", IMAGES)
    unpacked(tmp_path / "drop/.hidden", IMAGES)
    archive = Archive("*", trees=("set/images", "[!.]*/[!.]*/set/images"))
    assert brought(archive) == without_readme({f"mine/deeper/{n}": c for n, c in IMAGES.items()})


def test_links_in_a_circle_are_refused(brought, both, tmp_path):
    unpacked(tmp_path / "drop", IMAGES)
    (tmp_path / "drop/set/images/again").symlink_to(tmp_path / "drop/set")
    with pytest.raises(InputError, match=r"again/images is a link to a folder that it lies in"):
        brought(both[0])
    (tmp_path / "drop/set/images/again").unlink()
    (tmp_path / "drop/set/images/other").symlink_to(tmp_path / "far")
    unpacked(tmp_path / "far", {"3.jpg": b"three"})
    assert brought(both[0])["set/images/other/3.jpg"] == b"three"


def test_what_cannot_be_read_is_told_as_such(brought, both, tmp_path):
    unpacked(tmp_path / "drop", IMAGES)
    odd = tmp_path / "drop/set/images/odd.jpg"
    odd.symlink_to(tmp_path / "nowhere")
    with pytest.raises(InputError, match=rf"^{odd} cannot be read: No such file.*; mend it, or"):
        brought(both[0])
    odd.unlink()
    os.mkfifo(odd)
    with pytest.raises(InputError, match=rf"^{odd} is no file; remove it$"):
        brought(both[0])
    odd.unlink()
    latin = tmp_path / "drop/set/images/caf\udce9.jpg"
    latin.write_bytes(b"x")
    with pytest.raises(InputError, match=r"caf\\udce9.jpg' has a name that is no UTF-8"):
        brought(both[0])
    latin.unlink()
    assert brought(both[0]) == without_readme(IMAGES)
    assert not list((tmp_path / "raw/.unpacked").glob("*.part"))


def test_an_archive_that_cannot_be_read_is_named(brought, tmp_path, monkeypatch):
    dropped = tmp_path / "drop/x.zip"
    dropped.write_bytes(zip_bytes(IMAGES))
    plain = Path.open

    def refused(self: Path, *given: Any, **named: Any) -> Any:
        if self == dropped:
            raise PermissionError(13, "Permission denied", str(self))
        return plain(self, *given, **named)

    monkeypatch.setattr(Path, "open", refused)
    for archive in Archive("x.zip"), Archive("*"), Archive("x.zip", unpack=False):
        with pytest.raises(InputError, match=rf"{dropped} cannot be read.*Permission denied"):
            brought(archive)
    assert dropped.exists()


# --- interruptions -------------------------------------------------------------------------------


def test_a_full_disk_keeps_the_download(brought, both, server, tmp_path, monkeypatch):
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(segcore.acquisition.unpacking.Unpacking, "_store", full)
    with pytest.raises(InputError, match=f"no space left below {tmp_path}/raw"):
        brought(both[0])
    monkeypatch.undo()
    assert raw_tree(tmp_path / "raw") == {}
    assert not list((tmp_path / "raw/.unpacked").glob("*.part")), "its room is needed"
    assert brought(both[0]) == IMAGES
    assert ask(server) == 1


def test_a_full_disk_while_copying_a_tree_ends_at_the_first_file(
    brought, both, tmp_path, monkeypatch
):
    unpacked(tmp_path / "drop", IMAGES)
    tries = list[object]()

    def full(*arguments: object) -> None:
        tries.append(arguments)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(shutil, "copyfile", full)
    with pytest.raises(InputError, match="no space left"):
        brought(both[0])
    assert len(tries) == 1


def test_an_interrupt_stops_all_threads_and_is_passed_on(server, both, tmp_path):
    server.files["/images.tgz"].pause = 0.05
    server.files["/images.tgz"].content = big = tar_bytes({"x": os.urandom(3_000_000)})

    class Impatient(Heard):
        def advance(self, count: int, total: int) -> None:
            if self.position:
                os.kill(os.getpid(), signal.SIGINT)
            super().advance(count, total)

    begun = time.monotonic()
    slow = Archive("images.tgz", (f"{server.url}/images.tgz",), size=len(big))
    # A shell lets what it starts in the background ignore the signal.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            bring((slow,), tmp_path / "raw", tmp_path / "drop", "", Impatient())
    finally:
        signal.signal(signal.SIGINT, before)
    assert time.monotonic() - begun < 2
    server.files["/images.tgz"].pause = 0.0
    bring((slow,), tmp_path / "raw", tmp_path / "drop", "", NOBODY)
    assert server.asked("/images.tgz")[1].startswith("bytes=")
    assert set(raw_tree(tmp_path / "raw")) == {"x"}


def test_a_lock_is_waited_for(tmp_path, monkeypatch):
    heard = Heard()
    waiting = Watch(heard)
    pauses = list[float]()

    def pause(seconds: float) -> None:
        pauses.append(seconds)
        if len(pauses) == 3:
            raise StoppedError

    monkeypatch.setattr(waiting, "pause", pause)
    first, told = held(tmp_path / "lock", Watch(NOBODY)), pytest.raises(StoppedError)
    with first, told, held(tmp_path / "lock", waiting):
        raise AssertionError("two hold it")
    assert heard.lines == [f"waiting for another process that holds {tmp_path}/lock"]
    with held(tmp_path / "lock", waiting):
        assert len(pauses) == 3


def test_a_disk_without_locks_is_told(tmp_path, monkeypatch):
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    told = pytest.raises(InputError, match=f"{tmp_path} cannot be written: No locks available")
    with told, held(tmp_path / "lock", Watch(NOBODY)):
        raise AssertionError("it holds nothing")


KILLED = """
import itertools, json, os, shutil, signal, sys
from pathlib import Path
from segcore.acquisition.bringing import bring, identity
from segcore.acquisition.archives import Archive
from segcore.acquisition.watch import NOBODY

url, place = sys.argv[1], Path(sys.argv[2])
expected = json.loads(sys.argv[3])
archives = (
    Archive("images.tgz", (url + "/images.tgz",), folder="a"),
    Archive("nested.zip", (url + "/nested.zip",), folder="b"),
    Archive("list.txt", (url + "/list.txt",), unpack=False),
    Archive("dropped.zip", trees=("set",), folder="c"),
)
WRITES = ("open", "os.", "shutil.")


def child(raw, last):
    pid = os.fork()
    if not pid:
        events = itertools.count()

        def hook(event, arguments):
            if event.startswith(WRITES) and str(place) in str(arguments) and next(events) == last:
                os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(hook)
        try:
            bring(archives, raw, place / "drop", "", NOBODY)
            os._exit(0)
        except BaseException as error:
            print(repr(error), file=sys.stderr, flush=True)
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def tree(raw):
    files = [p for p in raw.rglob("*") if p.is_file() and ".unpacked" not in p.parts]
    return {p.relative_to(raw).as_posix(): p.read_text() for p in files}


os.fsync = lambda file: None  # no power fails here
for last in itertools.count(step=3):
    raw = place / "raw"
    shutil.rmtree(raw, ignore_errors=True)
    shutil.rmtree(place / "downloads", ignore_errors=True)
    code = child(raw, last)
    if code == 0:
        break
    assert code == -9, code
    for archive in archives:  # what the notes say by then has to be true
        key = archive.name if archive.folder == "." else f"{archive.folder}_{archive.name}"
        notes = raw / ".unpacked" / f"{key}.json"
        if notes.exists() and json.loads(notes.read_text())["archive"] == identity(archive):
            own = {k: v for k, v in expected.items() if k.startswith(archive.folder + "/")}
            own = own or {"list.txt": expected["list.txt"]}
            assert own.items() <= tree(raw).items(), (last, archive.name)
    assert child(raw, -1) == 0, last
    assert tree(raw) == expected, last
    left = [p.name for d in (raw / ".unpacked", place / "downloads") for p in d.iterdir()]
    assert not [name for name in left if name.endswith(".part") and name[0] != "."], left
print(last)
"""


@pytest.mark.long
def test_killed_at_every_step_and_run_again(server, tmp_path):
    """In children of a process of its own, killed at the n-th file operation, for every third n."""
    inner = zip_bytes({"deep/1.png": b"1"})
    server.files["/nested.zip"] = Served(zip_bytes({"in/inner.zip": inner, "x": b"x"}))
    server.files["/list.txt"] = Served(b"1\n", kind="text/plain")
    unpacked(tmp_path / "drop/c", {"set/1.jpg": b"dropped"})
    expected = {f"a/{name}": content.decode() for name, content in IMAGES.items()}
    expected |= {"b/in/deep/1.png": "1", "b/x": "x", "list.txt": "1\n", "c/set/1.jpg": "dropped"}
    command = [sys.executable, "-c", KILLED, server.url, str(tmp_path), json.dumps(expected)]
    outcome = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert outcome.returncode == 0, outcome.stderr
    assert int(outcome.stdout) > 60, "so many operations were met"


SLOW = """
import sys
from pathlib import Path
from segcore.acquisition import bring
from segcore.acquisition.archives import Archive
from segcore.acquisition.watch import NOBODY
url, place, checksum = sys.argv[1], Path(sys.argv[2]), sys.argv[3]
archives = (Archive("big.tar", (url + "/big.tar",), checksum=checksum),)
bring(archives, place / "raw", place / "drop", "", NOBODY)
"""


def test_killed_while_bytes_come(server, tmp_path):
    content = tar_bytes({"x": np.random.default_rng(0).bytes(3_000_000)})
    server.files["/big.tar"] = file = Served(content, pause=0.01)
    command = [sys.executable, "-c", SLOW, server.url, str(tmp_path), digest(content)]
    for round in range(1, 4):
        with subprocess.Popen(command) as process:
            sizes = (path.stat().st_size for path in (tmp_path / "downloads").glob("*.part"))
            deadline = time.monotonic() + 30
            while next(iter(sizes), 0) < round * 700_000 and time.monotonic() < deadline:
                time.sleep(0.01)
                sizes = (path.stat().st_size for path in (tmp_path / "downloads").glob("*.part"))
            process.kill()
        assert raw_tree(tmp_path / "raw") == {}
    file.pause = 0.0
    assert subprocess.run(command, timeout=60).returncode == 0
    assert (tmp_path / "raw/x").read_bytes() == content[512 : 512 + 3_000_000]
    starts = [int(asked[6:-1]) for asked in server.asked("/big.tar")[1:]]
    assert starts == sorted(starts)
    assert [start >= n * 700_000 for n, start in enumerate(starts, 1)] == [True] * 3
