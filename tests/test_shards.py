import io
import json
import multiprocessing
import pickle
import shutil
from itertools import pairwise
from pathlib import Path

import fsspec
import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from segcore import shards
from segcore.errors import InputError
from segcore.files import sha256_of
from segcore.shards import MANIFEST, Manifest, Record, ShardReader, write_shard
from segcore.types import IGNORE, ClassTable, Sample

pytestmark = pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")

CLASSES = ClassTable(("road", "sky"), ((1, 2, 3), (4, 5, 6)), (0, 1))


def pixels_of(number: int, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(number)
    labels = generator.choice(np.array([0, 1, IGNORE], np.uint8), (height, width))
    return generator.integers(0, 256, (height, width, 3), np.uint8), labels


def record_of(number: int) -> Record:
    height, width = 20 + number, 30 - number
    image, labels = pixels_of(number, height, width)
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG")
    return Record(f"sample {number}", buffer.getvalue(), labels.tobytes(), height, width)


def write_dataset(folder: Path, counts: tuple[int, ...]) -> None:
    entries, number = [], 0
    for index, count in enumerate(counts):
        name = f"val-{index:05d}-of-{len(counts):05d}.parquet"
        write_shard(folder / name, map(record_of, range(number, number + count)), CLASSES)
        entries.append({"name": name, "rows": count, "sha256": sha256_of(folder / name)})
        number += count
    splits = {"val": {"shards": entries}}
    classes = {"names": CLASSES.names, "colours": CLASSES.colours, "mirror": CLASSES.mirror}
    values = {"dataset": "toy", "data_hash": "h", "classes": classes, "splits": splits}
    (folder / MANIFEST).write_text(json.dumps(values))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_dataset(tmp_path, (3, 1, 5))
    return tmp_path


def assert_is(sample: Sample, number: int) -> None:
    image, labels = pixels_of(number, 20 + number, 30 - number)
    assert sample.id == f"sample {number}"
    assert np.array_equal(sample.image.permute(1, 2, 0).numpy(), image)
    assert np.array_equal(sample.labels.numpy(), labels)


# --- writing -------------------------------------------------------------------------------------


def test_same_records_same_bytes(tmp_path):
    for name in "ab":
        assert write_shard(tmp_path / name, map(record_of, range(4)), CLASSES) == 4
    write_shard(tmp_path / "c", map(record_of, range(1, 5)), CLASSES)
    a, b, c = ((tmp_path / name).read_bytes() for name in "abc")
    assert a == b != c


def test_columns_hold_what_was_given(tmp_path):
    write_shard(tmp_path / "a", map(record_of, range(4)), CLASSES)
    rows = pq.read_table(tmp_path / "a").to_pylist()
    assert rows == [record_of(number)._asdict() for number in range(4)]


def test_class_table_stands_in_the_file(tmp_path):
    write_shard(tmp_path / "a", [record_of(0)], CLASSES)
    metadata = json.loads(pq.read_schema(tmp_path / "a").metadata[b"segcore"])
    assert metadata["classes"] == {
        "names": ["road", "sky"],
        "colours": [[1, 2, 3], [4, 5, 6]],
        "mirror": [0, 1],
    }


def test_row_groups_close_at_the_first_record_over_the_limit(tmp_path, monkeypatch):
    sizes = [len(record_of(n).image) + len(record_of(n).labels) for n in range(9)]
    monkeypatch.setattr(shards, "ROW_GROUP_BYTES", 6000)
    write_shard(tmp_path / "a", map(record_of, range(9)), CLASSES)
    found = pq.ParquetFile(tmp_path / "a").metadata
    rows = [found.row_group(group).num_rows for group in range(found.num_row_groups)]
    ends = [0, *np.cumsum(rows).tolist()]
    assert ends[-1] == 9
    assert len(rows) >= 3
    for first, last in pairwise(ends[:-1]):
        assert sum(sizes[first : last - 1]) < 6000 <= sum(sizes[first:last])


def test_a_failure_while_writing_leaves_nothing(tmp_path):
    def records():
        yield record_of(0)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        write_shard(tmp_path / "a", records(), CLASSES)
    assert not list(tmp_path.iterdir())


# --- reading -------------------------------------------------------------------------------------


@pytest.mark.parametrize("group_bytes", [1, 6000, 1 << 20])
def test_random_access_equals_the_order_of_writing(tmp_path, monkeypatch, group_bytes):
    monkeypatch.setattr(shards, "ROW_GROUP_BYTES", group_bytes)
    write_dataset(tmp_path, (3, 1, 5))
    reader = ShardReader(str(tmp_path), "val")
    assert len(reader) == 9
    for number in [*range(9), *np.random.default_rng(0).permutation(9).tolist()]:
        assert_is(reader[number], number)
    assert [sample.id for sample in reader] == [f"sample {number}" for number in range(9)]


@pytest.mark.parametrize("index", [-1, 9, 100])
def test_an_index_beyond_the_split_is_an_error(folder, index):
    with pytest.raises(IndexError):
        ShardReader(str(folder), "val")[index]


def test_a_reader_in_use_may_be_pickled(folder):
    reader = ShardReader(f"{folder}/", "val")
    assert_is(reader[4], 4)
    sent = pickle.loads(pickle.dumps(reader))
    assert "_files" not in vars(sent)
    assert_is(sent[4], 4)


def test_a_forked_reader_opens_its_own_files(folder):
    reader = ShardReader(str(folder), "val")
    assert_is(reader[4], 4)
    context = multiprocessing.get_context("fork")
    receive, send = context.Pipe(duplex=False)

    def child() -> None:
        opened = reader._file(1)
        send.send((opened is parents, reader[4].id))

    parents = reader._file(1)
    process = context.Process(target=child)
    process.start()
    assert receive.poll(30)
    assert receive.recv() == (False, "sample 4")
    process.join()


def test_few_files_stay_open(folder, monkeypatch):
    monkeypatch.setattr(shards, "MOST_OPEN", 2)
    reader = ShardReader(str(folder), "val")
    for number in (0, 3, 4, 0, 8, 3, 1):
        assert_is(reader[number], number)
        assert len(reader._files) <= 2


def test_memory_filesystem_gives_the_same_samples(folder, tmp_path_factory, monkeypatch):
    monkeypatch.setenv("SEGCORE_CACHE", str(tmp_path_factory.mktemp("copies")))
    memory = fsspec.filesystem("memory")
    for path in folder.iterdir():
        memory.pipe(f"/toy/{path.name}", path.read_bytes())
    local, remote = ShardReader(str(folder), "val"), ShardReader("memory://toy", "val")
    try:
        for number in range(9):
            assert remote[number].image.equal(local[number].image)
            assert remote[number].labels.equal(local[number].labels)
            assert remote[number].id == local[number].id
    finally:
        memory.rm("/toy", recursive=True)


def test_a_file_address_is_a_path(folder):
    assert_is(ShardReader(f"file://{folder}", "val")[7], 7)


def test_a_sample_does_not_share_the_file(folder):
    reader = ShardReader(str(folder), "val")
    reader[2].labels.fill_(77)
    assert_is(reader[2], 2)


# --- what is wrong is told -----------------------------------------------------------------------


def test_manifest_that_cannot_be_used_is_told(tmp_path):
    with pytest.raises(InputError, match=r"manifest\.json is missing; run the stage `prepare`"):
        Manifest.read(str(tmp_path))
    for content in ("", '{"dataset": "toy"', "{}", "[1]", '{"classes": {"names": 1}}'):
        (tmp_path / MANIFEST).write_text(content)
        with pytest.raises(InputError, match=r"manifest\.json is not whole; run the stage"):
            Manifest.read(str(tmp_path))
    with pytest.raises(InputError, match=r"manifest\.json is missing"):
        Manifest.read("memory://nothing")


def test_unknown_split_gets_a_suggestion(folder):
    with pytest.raises(InputError, match="dataset toy has no split 'vall'; did you mean 'val'"):
        ShardReader(str(folder), "vall")


def spoil(path: Path, how: str) -> None:
    content = bytearray(path.read_bytes())
    if how == "missing":
        path.unlink()
        return
    if how == "flipped bit in an image":
        content[content.index(record_of(3).image) + 1200] ^= 1
    if how == "flipped bit in labels":
        content[content.index(record_of(3).image) + len(record_of(3).image) + 60] ^= 1
    path.write_bytes(content[: {"empty": 0, "cut": 700}.get(how, len(content))])


@pytest.mark.parametrize(
    "how", ["missing", "empty", "cut", "flipped bit in an image", "flipped bit in labels"]
)
def test_spoilt_shard_is_told_with_its_remedy(folder, how):
    name = "val-00001-of-00003.parquet"
    spoil(folder / name, how)
    reader = ShardReader(str(folder), "val")
    assert_is(reader[0], 0)
    with pytest.raises(InputError, match=rf"{name} cannot be read .*run the stage `prepare` of"):
        reader[3]


def test_flipped_bit_that_a_decoder_would_not_notice_is_told(folder):
    """Half a JPEG file on, a bit changes colours and nothing else."""
    path = folder / "val-00001-of-00003.parquet"
    image = Image.fromarray(pixels_of(3, 23, 27)[0])
    buffer = io.BytesIO()
    image.save(buffer, "JPEG")
    write_shard(path, [record_of(3)._replace(image=buffer.getvalue())], CLASSES)
    whole = ShardReader(str(folder), "val")[3].image
    content, place = bytearray(path.read_bytes()), len(buffer.getvalue()) * 2 // 3
    content[content.index(buffer.getvalue()) + place] ^= 1
    path.write_bytes(content)
    spoilt = bytearray(buffer.getvalue())
    spoilt[place] ^= 1
    decoded = np.asarray(Image.open(io.BytesIO(spoilt)))
    assert not np.array_equal(decoded, whole.permute(1, 2, 0)), "the bit does not matter"
    with pytest.raises(InputError, match=r"val-00001-of-00003\.parquet cannot be read .*CRC"):
        ShardReader(str(folder), "val")[3]


def test_shard_of_another_dataset_is_told(folder):
    shutil.copy(folder / "val-00001-of-00003.parquet", folder / "val-00002-of-00003.parquet")
    reader = ShardReader(str(folder), "val")
    with pytest.raises(InputError, match=r"val-00002-of-00003\.parquet cannot be read"):
        reader[8]
