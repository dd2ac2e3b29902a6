"""Copies of remote shards: whole or absent, within a limit, one transfer for many processes."""

import fcntl
import hashlib
import multiprocessing
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from segcore import copies
from segcore.copies import Copies, Held, source_of
from segcore.errors import InputError
from segcore.storage import Ranges

SIZE = 1000


@pytest.fixture
def memory() -> Iterator[MemoryFileSystem]:
    filesystem = fsspec.filesystem("memory")
    yield filesystem
    filesystem.store.clear()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "shards"


@pytest.fixture
def asked(monkeypatch) -> list[tuple[int, int]]:
    """The ranges that were asked of the storage, in pieces of 300 bytes."""
    ranges, plain = list[tuple[int, int]](), copies.read_range

    def counting(place: str, start: int, end: int) -> bytes:
        ranges.append((start, end))
        return plain(place, start, end)

    monkeypatch.setattr(copies, "read_range", counting)
    monkeypatch.setattr(copies, "CHUNK", 300)
    return ranges


def content_of(number: int) -> bytes:
    return hashlib.shake_128(str(number).encode()).digest(SIZE)


def put(number: int) -> tuple[str, str]:
    """An address, and the sha256 of what is there."""
    content, place = content_of(number), f"memory://store/{number}"
    fsspec.filesystem("memory").pipe(f"/store/{number}", content)
    return place, hashlib.sha256(content).hexdigest()


def name_of(number: int) -> str:
    return hashlib.sha256(content_of(number)).hexdigest()


def kept(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()} - {".lock"}


def take(held: Held | None) -> bytes:
    assert held is not None
    content = Path(held.name).read_bytes()
    held.close()
    return content


# --- one copy ------------------------------------------------------------------------------------


def test_a_copy_is_fetched_once(folder, memory, asked):
    store = Copies(folder, 10 * SIZE)
    for _ in range(3):
        assert take(store.held(*put(1))) == content_of(1)
    assert asked == [(0, 300), (300, 600), (600, 900), (900, 1000)]
    assert kept(folder) == {name_of(1)}


def test_the_same_content_elsewhere_is_not_fetched(folder, memory, asked):
    store, (place, sha256) = Copies(folder, 10 * SIZE), put(1)
    take(store.held(place, sha256))
    asked.clear()
    assert take(store.held("memory://nowhere", sha256)) == content_of(1)
    assert not asked


def test_other_content_is_refused_and_not_kept(folder, memory):
    store, (place, _) = Copies(folder, 10 * SIZE), put(1)
    with pytest.raises(InputError, match=f"{place}: its sha256 is {name_of(1)}, its manifest"):
        store.held(place, name_of(2))
    assert kept(folder) == set()


@pytest.mark.parametrize("sha256", ["", "0", "../../../etc/passwd", "A" * 64, name_of(1) + "\n"])
def test_what_is_no_sha256_never_becomes_a_path(folder, memory, sha256):
    place, _ = put(1)
    with pytest.raises(InputError, match="its manifest holds no sha256 of it"):
        Copies(folder, 10 * SIZE).held(place, sha256)
    assert not folder.exists()


def test_a_cut_transfer_goes_on_where_it_was(folder, memory, asked, monkeypatch):
    store, (place, sha256) = Copies(folder, 10 * SIZE), put(1)
    plain = MemoryFileSystem.cat_file

    def cut(self, path, start=None, end=None, **options) -> bytes:
        return plain(self, path, start=start, end=min(end or SIZE, 450), **options)

    monkeypatch.setattr(MemoryFileSystem, "cat_file", cut)
    with pytest.raises(InputError, match=r"the connection was cut, 150 of 300 bytes came"):
        store.held(place, sha256)
    assert kept(folder) == {f"{sha256}.{SIZE}.part"}
    monkeypatch.setattr(MemoryFileSystem, "cat_file", plain)
    asked.clear()
    assert take(store.held(place, sha256)) == content_of(1)
    assert asked == [(300, 600), (600, 900), (900, 1000)]
    assert kept(folder) == {sha256}


@pytest.mark.parametrize("left", [b"", b"x" * 10, b"\0" * SIZE, b"y" * (SIZE + 5)])
def test_what_a_crash_left_is_never_taken_for_good(folder, memory, left):
    store, (place, sha256) = Copies(folder, 10 * SIZE), put(1)
    folder.mkdir()
    (folder / f"{sha256}.{SIZE}.part").write_bytes(left)
    assert take(store.held(place, sha256)) == content_of(1)
    assert kept(folder) == {sha256}


def test_a_whole_part_needs_no_transfer(folder, memory, asked):
    store, (place, sha256) = Copies(folder, 10 * SIZE), put(1)
    folder.mkdir()
    (folder / f"{sha256}.{SIZE}.part").write_bytes(content_of(1))
    assert take(store.held(place, sha256)) == content_of(1)
    assert not asked


# --- the limit -----------------------------------------------------------------------------------


def opened_long_ago(folder: Path, number: int, seconds: int) -> None:
    then = time.time() - seconds
    os.utime(folder / name_of(number), (then, then))


def test_the_least_recently_opened_goes_first(folder, memory):
    store = Copies(folder, 3 * SIZE)
    for number in (1, 2, 3):
        take(store.held(*put(number)))
        opened_long_ago(folder, number, 100 - number)
    take(store.held(*put(1)))  # used again: now 2 is the oldest
    take(store.held(*put(4)))
    assert kept(folder) == {name_of(1), name_of(3), name_of(4)}
    take(store.held(*put(5)))
    assert kept(folder) == {name_of(1), name_of(4), name_of(5)}


def test_what_is_in_use_stays_and_the_rest_is_read_from_afar(folder, memory):
    store = Copies(folder, 2 * SIZE)
    first, second = store.held(*put(1)), store.held(*put(2))
    assert store.held(*put(3)) is None
    assert kept(folder) == {name_of(1), name_of(2)}
    assert second is not None
    second.close()
    assert take(store.held(*put(3))) == content_of(3)
    assert kept(folder) == {name_of(1), name_of(3)}
    assert take(first) == content_of(1)


def test_nothing_is_evicted_where_that_would_not_be_enough(folder, memory):
    store = Copies(folder, 2 * SIZE)
    held = store.held(*put(1))
    take(store.held(*put(2)))
    memory.pipe("/store/large", b"z" * (SIZE + 1))
    assert store.held("memory://store/large", hashlib.sha256(b"z" * (SIZE + 1)).hexdigest()) is None
    assert kept(folder) == {name_of(1), name_of(2)}
    assert take(held) == content_of(1)


def test_what_is_larger_than_the_limit_is_read_from_afar(folder, memory):
    assert Copies(folder, SIZE - 1).held(*put(1)) is None
    assert kept(folder) == set()
    assert take(Copies(folder, SIZE).held(*put(1))) == content_of(1)


def test_a_transfer_counts_with_all_that_it_will_have(folder, memory):
    """Another process is at it: its part is locked, and has ten bytes of a thousand."""
    folder.mkdir()
    with (folder / f"{name_of(9)}.{SIZE}.part").open("wb") as part:
        part.write(b"x" * 10)
        part.flush()
        fcntl.flock(part, fcntl.LOCK_EX)
        assert Copies(folder, 2 * SIZE - 1).held(*put(1)) is None
        assert take(Copies(folder, 2 * SIZE).held(*put(1))) == content_of(1)
    assert take(Copies(folder, 2 * SIZE - 1).held(*put(2))) == content_of(2)
    assert f"{name_of(9)}.{SIZE}.part" not in kept(folder), "nobody is at it any more"


def test_a_full_disk_counts_like_the_limit(folder, memory, monkeypatch):
    store = Copies(folder, 100 * SIZE)
    take(store.held(*put(1)))
    free = type("Usage", (), {"free": 200})
    monkeypatch.setattr(copies.shutil, "disk_usage", lambda _: free)
    held = store.held(*put(1))
    assert store.held(*put(2)) is None
    take(held)
    assert take(store.held(*put(2))) == content_of(2)
    assert kept(folder) == {name_of(2)}, "1000 bytes were given back, 800 were wanted"


def test_a_folder_that_cannot_be_written_is_told_with_the_variable(tmp_path, memory):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"cannot hold copies .*SEGCORE_CACHE"):
        Copies(tmp_path / "file" / "shards", SIZE).held(*put(1))


def test_files_of_others_are_left_alone(folder, memory):
    folder.mkdir()
    (folder / "notes.txt").write_text("mine")
    store = Copies(folder, SIZE)
    for number in (1, 2):
        take(store.held(*put(number)))
    assert kept(folder) == {"notes.txt", name_of(2)}


# --- the environment -----------------------------------------------------------------------------


def test_the_environment_says_where_and_how_much(tmp_path, memory, monkeypatch):
    monkeypatch.setenv("SEGCORE_CACHE", str(tmp_path))
    monkeypatch.setenv("SEGCORE_CACHE_GB", "0.000002")
    store = Copies.of_this_machine()
    assert (store.folder, store.limit) == (tmp_path / "shards", 2000)
    monkeypatch.delenv("SEGCORE_CACHE_GB")
    assert Copies.of_this_machine().limit == 64_000_000_000
    for wrong in ("much", "-1", "", "1e3"):
        monkeypatch.setenv("SEGCORE_CACHE_GB", wrong)
        with pytest.raises(InputError, match=f"SEGCORE_CACHE_GB='{wrong}' is no size"):
            Copies.of_this_machine()


def test_a_source_is_a_path_a_copy_or_ranges(tmp_path, memory, monkeypatch):
    monkeypatch.setenv("SEGCORE_CACHE", str(tmp_path))
    place, sha256 = put(1)
    monkeypatch.setenv("SEGCORE_CACHE_GB", "0.0000001")
    afar = source_of(place, sha256)
    assert isinstance(afar.file, Ranges)
    assert (afar.place, afar.file.read()) == (place, content_of(1))
    monkeypatch.setenv("SEGCORE_CACHE_GB", "1")
    copy = source_of(place, sha256)
    assert copy.place == str(tmp_path / "shards" / sha256)
    local = source_of(copy.place, "")
    assert (local.place, local.file) == (copy.place, None)


# --- processes -----------------------------------------------------------------------------------

FETCH = """
import sys, time
from pathlib import Path
import fsspec
from segcore import copies
from segcore.copies import Copies

folder, sha256, slow = Path(sys.argv[1]), sys.argv[2], float(sys.argv[3])
plain = copies.read_range

def telling(place, start, end):
    with (folder.parent / "asked").open("a") as file:
        file.write(f"{start}\\n")
    time.sleep(slow)
    return plain(place, start, end)

copies.read_range, copies.CHUNK = telling, 100
held = Copies(folder, 10_000).held(f"memory://store/1", sha256)
assert Path(held.name).name == sha256
print(len(Path(held.name).read_bytes()), flush=True)
sys.stdin.read()
"""
PUT = """
import fsspec
fsspec.filesystem("memory").pipe("/store/1", bytes.fromhex("{content}"))
"""


def fetching(folder: Path, slow: float) -> subprocess.Popen:
    code = PUT.format(content=content_of(1).hex()) + FETCH
    command = [sys.executable, "-c", code, str(folder), name_of(1), str(slow)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def asked_of(folder: Path) -> list[int]:
    place = folder.parent / "asked"
    return [int(line) for line in place.read_text().split()] if place.exists() else []


def wait_for(condition) -> None:
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


@pytest.mark.long
def test_processes_share_one_transfer(folder):
    """And all of them hold it at the end: who waited must not wait for those who read."""
    processes = [fetching(folder, 0.1) for _ in range(4)]
    outputs = [process.stdout for process in processes if process.stdout]
    wait_for(lambda: len(select.select(outputs, [], [], 0)[0]) == 4)
    assert [process.communicate(timeout=60)[0] for process in processes] == [f"{SIZE}\n"] * 4
    assert [process.returncode for process in processes] == [0] * 4
    assert asked_of(folder) == list(range(0, SIZE, 100))
    assert kept(folder) == {name_of(1)}


@pytest.mark.long
def test_a_killed_transfer_is_taken_over_by_one_that_waits(folder):
    first = fetching(folder, 0.3)
    wait_for(lambda: len(asked_of(folder)) >= 4)
    second = fetching(folder, 0.0)
    time.sleep(0.2)
    first.send_signal(signal.SIGKILL)
    first.communicate(timeout=60)
    assert second.communicate(timeout=60)[0] == f"{SIZE}\n"
    assert (folder / name_of(1)).read_bytes() == content_of(1)
    assert kept(folder) == {name_of(1)}


def _hold_and_wait(store: Copies, place: str, sha256: str, pipe) -> None:
    held = store.held(place, sha256)
    pipe.send(held is not None)
    pipe.recv()


@pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")
def test_what_another_process_reads_is_not_evicted_until_it_ends(folder, memory):
    store, (place, sha256) = Copies(folder, SIZE), put(1)
    ours, theirs = multiprocessing.get_context("fork").Pipe()
    process = multiprocessing.get_context("fork").Process(
        target=_hold_and_wait, args=(store, place, sha256, theirs)
    )
    process.start()
    assert ours.poll(60)
    assert ours.recv()
    assert store.held(*put(2)) is None
    assert kept(folder) == {name_of(1)}
    process.kill()
    process.join()
    assert take(store.held(*put(2))) == content_of(2)
    assert kept(folder) == {name_of(2)}
