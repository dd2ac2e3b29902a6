import json
import multiprocessing
import os
from pathlib import Path

import numpy as np
import pytest
import torch

import segcore.shards
from segcore.decoded_cache import DecodedCache, DecodedReader, open_reader
from segcore.errors import InputError
from segcore.shards import MANIFEST, ShardReader, write_shard
from segcore.types import Sample
from tests.test_batches import CLASSES, COUNT, record_of

PLENTY = 10**9


def shards_in(folder: Path, numbers: range, sha256: str) -> str:
    """A split of one shard; its content's name is given, not computed."""
    rows = write_shard(folder / "a.parquet", map(record_of, numbers), CLASSES)
    shard = {"name": "a.parquet", "sha256": sha256, "rows": rows}
    classes = {"names": CLASSES.names, "colours": CLASSES.colours, "mirror": CLASSES.mirror}
    values = {"dataset": "toy", "data_hash": "h", "classes": classes}
    values["splits"] = {"train": {"shards": [shard]}}
    (folder / MANIFEST).write_text(json.dumps(values))
    return str(folder)


@pytest.fixture
def shards(tmp_path) -> str:
    return shards_in(tmp_path / "shards", range(COUNT), "aa")


def sample(height: int = 10, width: int = 10, value: int = 1) -> Sample:
    image = torch.full((3, height, width), value, dtype=torch.uint8)
    return Sample(f"n{value}", image, torch.full((height, width), value, dtype=torch.uint8))


def assert_same(found: Sample, expected: Sample) -> None:
    assert found.id == expected.id
    assert found.image.equal(expected.image)
    assert found.labels.equal(expected.labels)


def stored(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.glob("*/*"))


@pytest.fixture
def no_decoding(monkeypatch):
    def refuse(_):
        raise AssertionError("decoded again")

    return lambda: monkeypatch.setattr(segcore.shards, "decode", refuse)


def test_what_was_decoded_once_is_read_from_then_on(shards, tmp_path, no_decoding):
    plain = [ShardReader(shards, "train")[index] for index in range(COUNT)]
    for reader in (DecodedReader(shards, "train", PLENTY, tmp_path / "cache") for _ in range(2)):
        for index in range(COUNT):
            assert_same(reader[index], plain[index])
            assert_same(reader[index], plain[index])
        no_decoding()  # another reader, as of another process, finds everything
    with pytest.raises(IndexError):
        reader[COUNT]


def test_open_reader_caches_where_it_may(shards, tmp_path, monkeypatch):
    monkeypatch.setenv("SEGCORE_CACHE", str(tmp_path / "here"))
    assert type(open_reader(shards, "train", 0.0)) is ShardReader
    reader = open_reader(shards, "train", 0.5)
    assert isinstance(reader, DecodedReader)
    assert reader.cache.limit == 500_000_000
    assert reader.cache.folder.parent == tmp_path / "here"


def test_writing_into_a_sample_leaves_the_file(tmp_path):
    cache = DecodedCache(tmp_path, PLENTY, frozenset({"aa"}))
    cache.write("aa", 0, sample())
    found = cache.read("aa", 0)
    found.image.fill_(200)
    found.labels.fill_(200)
    assert_same(cache.read("aa", 0), sample())


def test_samples_never_take_more_than_the_limit(shards, tmp_path):
    whole = DecodedReader(shards, "train", PLENTY, tmp_path / "whole")
    plain = [whole[index] for index in range(COUNT)]
    need = stored(tmp_path / "whole")
    assert need == sum(12 + 1 + 4 * each.labels.numel() for each in plain)
    for limit in (0, 1, need // 2, need - 1, need):
        folder = tmp_path / str(limit)
        reader = DecodedReader(shards, "train", limit, folder)
        for _ in range(2):
            for index in range(COUNT):
                assert_same(reader[index], plain[index])
        assert stored(folder) <= limit
        assert (stored(folder) == need) == (limit == need)


def test_shards_that_nobody_uses_make_room(tmp_path):
    size = 12 + 2 + 400
    for number, shard in enumerate(("old", "older", "oldest")):
        cache = DecodedCache(tmp_path, 4 * size, frozenset({shard}))
        assert cache.write(shard, 0, sample())
        os.utime(tmp_path / shard, (100 - number, 100 - number))
    cache = DecodedCache(tmp_path, 4 * size, frozenset({"new"}))
    assert cache.write("new", 0, sample())
    assert len(list(tmp_path.glob("*/*"))) == 4
    assert cache.write("new", 1, sample())
    assert not (tmp_path / "oldest").exists()
    assert cache.write("new", 2, sample())
    assert not (tmp_path / "older").exists()
    # a training that began later needs its own; neither takes from the other for ever
    later = DecodedCache(tmp_path, 4 * size, frozenset({"old"}))
    assert later.read("old", 0)
    assert not cache.write("new", 3, sample())
    assert later.write("old", 1, sample()) is True
    assert not (tmp_path / "new").exists()
    assert cache.read("new", 0) is None
    assert stored(tmp_path) <= 4 * size


@pytest.mark.parametrize("kept", [0, 5, 12, 14, 100, 413])
def test_a_file_cut_short_is_no_sample(tmp_path, kept):
    cache = DecodedCache(tmp_path, PLENTY, frozenset({"aa"}))
    cache.write("aa", 0, sample())
    path = tmp_path / "aa/0"
    path.write_bytes(path.read_bytes()[:kept])
    assert cache.read("aa", 0) is None
    cache.write("aa", 0, sample())
    assert_same(cache.read("aa", 0), sample())


def test_what_a_killed_process_left_is_removed(tmp_path):
    cache = DecodedCache(tmp_path, 1000, frozenset({"aa"}))
    (tmp_path / "aa/.0.1.part").write_bytes(bytes(500))
    (tmp_path / "used").write_text("")  # killed between opening and writing
    assert not cache.write("aa", 0, sample())
    second = DecodedCache(tmp_path, 1000, frozenset({"aa"}))
    assert not second.write("aa", 0, sample()), "the first one may still be writing"
    del cache, second
    alone = DecodedCache(tmp_path, 1000, frozenset({"aa"}))
    assert not (tmp_path / "aa/.0.1.part").exists()
    assert [alone.write("aa", row, sample()) for row in range(3)] == [True, True, False]


def fill(folder: Path, limit: int, shard: str, rows: range) -> None:
    cache = DecodedCache(folder, limit, frozenset({"aa", "bb"}))
    for row in rows:
        cache.write(shard, row, sample(20, 20, row % 250))


@pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")
def test_processes_share_one_limit(tmp_path):
    """Four processes write 100 samples each where 150 fit."""
    size = len("n000") + 12 + 1600
    context = multiprocessing.get_context("fork")
    parts = range(100, 200), range(200, 300)
    jobs = [(shard, rows) for shard in ("aa", "bb") for rows in parts]
    workers = [context.Process(target=fill, args=(tmp_path, 150 * size, *job)) for job in jobs]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
        assert worker.exitcode == 0
    assert 140 * size <= stored(tmp_path) <= 150 * size
    cache = DecodedCache(tmp_path, 150 * size, frozenset({"aa"}))
    for path in tmp_path.glob("*/*"):
        row = int(path.name)
        assert_same(cache.read(path.parent.name, row), sample(20, 20, row % 250))


def test_a_disk_that_is_full_ends_nothing(shards, tmp_path, monkeypatch):
    reader = DecodedReader(shards, "train", PLENTY, tmp_path / "cache")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    assert_same(reader[0], ShardReader(shards, "train")[0])
    assert list((tmp_path / "cache").glob("*/*")) == []


def test_a_folder_that_cannot_be_written_is_told(shards, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="SEGCORE_CACHE"):
        DecodedReader(shards, "train", PLENTY, tmp_path / "file" / "cache")


def test_other_content_is_another_sample(tmp_path):
    """Two datasets whose shards have the same names."""
    first = shards_in(tmp_path / "first", range(3), "aa")
    second = shards_in(tmp_path / "second", range(3, 6), "bb")
    for folder in (first, second, first):
        reader = DecodedReader(folder, "train", PLENTY, tmp_path / "cache")
        assert_same(reader[1], ShardReader(folder, "train")[1])


def test_images_of_any_layout_are_kept(tmp_path):
    cache = DecodedCache(tmp_path, PLENTY, frozenset({"aa"}))
    values = np.random.default_rng(0).integers(0, 256, (5, 7, 3), np.uint8)
    labels = torch.from_numpy(values[..., 0].copy())
    by_pixel = torch.from_numpy(values).permute(2, 0, 1)
    for row, image in enumerate((by_pixel, by_pixel.contiguous())):
        cache.write("aa", row, Sample("ä", image, labels.t().contiguous().t()))
        assert_same(cache.read("aa", row), Sample("ä", by_pixel, labels))
