"""Addresses, what storages refuse, and a real S3 protocol: moto's server, started here."""

import io
import os
import time
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pyarrow.parquet as pq
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from fsspec.registry import known_implementations
from torch.utils.data import DataLoader, Dataset

from segcore.errors import InputError
from segcore.publishing import address_of, publish
from segcore.shards import Manifest, ShardReader
from segcore.storage import Ranges, is_local, located, path_of, read_bytes, read_range, size_of

KEY, SECRET = "AKIAEXAMPLEKEY000000", "example-secret-of-nobody"


class Named(Dataset):
    """What the samples of a reader are called, for a loader."""

    def __init__(self, reader: ShardReader) -> None:
        self.reader = reader

    def __len__(self) -> int:
        return len(self.reader)

    def __getitem__(self, index: int) -> str:
        return self.reader[index].id


@pytest.fixture
def memory() -> Iterator[MemoryFileSystem]:
    filesystem = fsspec.filesystem("memory")
    yield filesystem
    filesystem.store.clear()


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """The address of an S3 server on this machine, empty at first."""
    pytest.importorskip("s3fs", reason="pip install -e .[dev]")
    moto = pytest.importorskip("moto.server", reason="pip install -e .[dev]")
    started = moto.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    started.start()
    host, port = started.get_host_and_port()
    yield f"http://{host}:{port}"
    started.stop()


@pytest.fixture
def bucket(server, monkeypatch, tmp_path) -> Iterator[str]:
    """A bucket of its own, with an account for it in the environment and nowhere else."""
    environment = {
        "AWS_ENDPOINT_URL": server,
        "AWS_ACCESS_KEY_ID": KEY,
        "AWS_SECRET_ACCESS_KEY": SECRET,
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_MAX_ATTEMPTS": "1",
        "AWS_SHARED_CREDENTIALS_FILE": str(tmp_path / "none"),
        "AWS_CONFIG_FILE": str(tmp_path / "none"),
        "SEGCORE_CACHE": str(tmp_path / "cache"),
    }
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    filesystem = fsspec.filesystem("s3")
    filesystem.clear_instance_cache()
    name = f"bucket-{time.monotonic_ns()}"
    fsspec.filesystem("s3").mkdir(name)
    yield name
    filesystem.clear_instance_cache()


def refused(action, *arguments) -> str:
    """The one message; nobody reads a key in it, nor in what it came from."""
    with pytest.raises(InputError) as caught:
        action(*arguments)
    assert caught.value.__suppress_context__ or caught.value.__context__ is None
    message = str(caught.value)
    assert "\n" not in message
    assert SECRET not in message
    assert KEY not in message
    return message


# --- addresses -----------------------------------------------------------------------------------


def test_a_local_place_is_known_in_any_spelling(tmp_path):
    assert is_local(str(tmp_path))
    assert is_local(f"file://{tmp_path}")
    assert path_of(f"file://{tmp_path}/a") == f"{tmp_path}/a"
    assert not is_local("memory://a")


@pytest.mark.parametrize(
    "place",
    [
        f"s3://{KEY}:{SECRET}@bucket/folder",
        f"s3://{KEY}@bucket/folder",
        f"https://host/folder?token={SECRET}",
        f"simplecache::s3://{KEY}:{SECRET}@bucket/folder",
    ],
)
def test_an_address_that_holds_a_credential_is_refused_and_not_shown(place):
    for action in (located, read_bytes, size_of, Manifest.read):
        message = refused(action, place)
        assert "this address holds a user, a password or a query" in message
        assert "environment" in message


def test_an_at_sign_in_a_path_is_no_credential(memory):
    memory.pipe("/folder/a@b", b"123")
    assert read_bytes("memory://folder/a@b") == b"123"


def test_an_unknown_kind_of_storage_is_told():
    assert "nowhere://a: this is no address that fsspec knows" in refused(located, "nowhere://a")


def test_a_missing_package_is_told_with_its_name(monkeypatch):
    monkeypatch.setitem(
        known_implementations,
        "absent",
        {"class": "segcore_absent.FileSystem", "err": "Install absentfs to use it"},
    )
    message = refused(located, "absent://a")
    assert "Install absentfs to use it" in message
    assert "segcore[s3]" in message


# --- bytes ---------------------------------------------------------------------------------------


def test_bytes_and_ranges_are_those_that_were_put(memory):
    content = bytes(range(256)) * 3
    memory.pipe("/a", content)
    assert read_bytes("memory://a") == content
    assert read_range("memory://a", 250, 260) == content[250:260]
    assert size_of("memory://a") == 768


def test_a_range_that_comes_short_is_told(memory):
    memory.pipe("/a", b"x" * 10)
    assert "5 of 15 bytes came; run it again" in refused(read_range, "memory://a", 5, 20)


def test_ranges_read_like_the_file(memory, tmp_path):
    content = os.urandom(1000)
    memory.pipe("/a", content)
    (tmp_path / "a").write_bytes(content)
    steps = [(0, 0, 10), (5, 1, 7), (-20, 2, 30), (990, 0, 5), (0, 1, -1), (2000, 0, 3)]
    with Ranges("memory://a") as remote, (tmp_path / "a").open("rb") as local:
        assert (remote.readable(), remote.seekable(), remote.writable()) == (True, True, False)
        for offset, whence, count in steps:
            assert remote.seek(offset, whence) == local.seek(offset, whence)
            assert remote.read(count) == local.read(count)
            assert remote.tell() == local.tell()


def test_whatever_a_library_raises_becomes_one_message_of_its_kind(memory, monkeypatch):
    """Its own words may hold a signed address, as here."""

    class StrangeError(Exception):
        pass

    def fail(*_arguments, **_options) -> bytes:
        raise StrangeError(f"https://host/a?X-Amz-Credential={KEY}&X-Amz-Signature={SECRET}")

    monkeypatch.setattr(MemoryFileSystem, "cat_file", fail)
    for action in (read_bytes, lambda place: read_range(place, 0, 1), Manifest.read):
        assert "memory://a" in refused(action, "memory://a")
        assert "the storage does not answer (StrangeError)" in refused(action, "memory://a")


def test_an_absent_file_is_told_from_one_that_cannot_be_asked_for(memory):
    with pytest.raises(FileNotFoundError):
        read_bytes("memory://a")
    assert "there is no such bucket or file" in refused(size_of, "memory://a")
    assert "there is no such bucket or file" in refused(read_range, "memory://a", 0, 1)


# --- S3 ------------------------------------------------------------------------------------------


def published(tiny: str, place: str) -> str:
    address = address_of(Manifest.read(tiny), place)
    list(publish(Path(tiny), address))
    return address


def test_a_dataset_goes_through_s3_unchanged(bucket, tiny):
    address = published(tiny, f"s3://{bucket}/data")
    assert address == f"s3://{bucket}/data/tiny/{Manifest.read(tiny).data_hash}"
    assert Manifest.read(address) == Manifest.read(tiny)
    for split, count in {"train": 8, "val": 4}.items():
        local, remote = ShardReader(tiny, split), ShardReader(address, split)
        assert len(remote) == count
        for index in range(count):
            assert remote[index].id == local[index].id
            assert remote[index].image.equal(local[index].image)
            assert remote[index].labels.equal(local[index].labels)
    assert len(list(Path(os.environ["SEGCORE_CACHE"], "shards").glob("?" * 64))) == 3


def test_ranges_of_s3_are_those_of_the_file(bucket, tiny, monkeypatch):
    """No room for copies: the shards are read where they are."""
    address = published(tiny, f"s3://{bucket}")
    monkeypatch.setenv("SEGCORE_CACHE_GB", "0.000001")
    local, remote = ShardReader(tiny, "train"), ShardReader(address, "train")
    for index in (7, 0, 3):
        assert remote[index].image.equal(local[index].image)
        assert remote[index].labels.equal(local[index].labels)
    assert not list(Path(os.environ["SEGCORE_CACHE"], "shards").glob("?" * 64))


@pytest.mark.long
@pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")
@pytest.mark.parametrize(("gigabytes", "count"), [("1", 2), ("0.000001", 0)])
@pytest.mark.parametrize("start", ["fork", "spawn"])
def test_loader_workers_read_s3_as_their_parent_does(
    bucket, tiny, monkeypatch, gigabytes, count, start
):
    """The parent has read already: a forked worker must not use its connections."""
    monkeypatch.setenv("SEGCORE_CACHE_GB", gigabytes)
    reader = ShardReader(published(tiny, f"s3://{bucket}"), "train")
    first = reader[0].id
    loader = DataLoader(
        Named(reader), num_workers=2, multiprocessing_context=start, timeout=60, batch_size=None
    )
    assert list(loader) == [sample.id for sample in ShardReader(tiny, "train")]
    assert reader[0].id == first
    assert len(list(Path(os.environ["SEGCORE_CACHE"], "shards").glob("?" * 64))) == count


def test_a_row_group_is_one_request(bucket, tiny, monkeypatch):
    address = published(tiny, f"s3://{bucket}")
    shard = f"{address}/{Manifest.read(tiny).split('train')['shards'][0]['name']}"
    file = pq.ParquetFile(Ranges(shard), pre_buffer=True)
    asked = list[tuple[int, int]]()
    monkeypatch.setattr(
        "segcore.storage.read_range",
        lambda place, start, end: asked.append((start, end)) or read_range(place, start, end),
    )
    assert file.read_row_group(0, use_threads=False).num_rows == 4
    assert len(asked) == 1


def test_a_bucket_that_is_not_there_is_told(bucket, tiny):
    message = refused(published, tiny, "s3://no-such-bucket/data")
    assert message.startswith("s3://no-such-bucket/data/tiny/")
    assert "there is no such bucket or file; check the address" in message
    message = refused(Manifest.read, "s3://no-such-bucket/data")
    assert "s3://no-such-bucket/data/manifest.json is missing; check the address" in message


def test_no_credentials_are_told(bucket, tiny, monkeypatch):
    address = published(tiny, f"s3://{bucket}")
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    fsspec.filesystem("s3").clear_instance_cache()
    for action in (Manifest.read, lambda place: published(tiny, place)):
        message = refused(action, address)
        assert "no credentials were found" in message
        assert "docs/data.md" in message


def test_a_refused_account_is_told(bucket, tiny, monkeypatch):
    exceptions = pytest.importorskip("botocore.exceptions")
    words = {"Code": "SignatureDoesNotMatch", "Message": f"{KEY} {SECRET}"}
    answer = exceptions.ClientError({"Error": words}, "GetObject")
    translated = pytest.importorskip("s3fs.errors").translate_boto_error

    async def refuse(*_arguments, **_options) -> None:
        raise translated(answer) from answer

    monkeypatch.setattr(pytest.importorskip("s3fs.core").S3FileSystem, "_call_s3", refuse)
    message = refused(Manifest.read, f"s3://{bucket}")
    assert "access was refused; check the account" in message


def test_a_cut_network_is_told(bucket, tiny, monkeypatch):
    address = published(tiny, f"s3://{bucket}")
    reader = ShardReader(address, "train")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")  # nobody listens there
    fsspec.filesystem("s3").clear_instance_cache()
    for action in (Manifest.read, lambda _: reader[0]):
        message = refused(action, address)
        assert message.startswith(address)
        assert "EndpointConnectionError); check the network" in message


def test_no_log_holds_the_account(bucket, tiny, caplog, capfd):
    with caplog.at_level("INFO"):
        reader = ShardReader(published(tiny, f"s3://{bucket}"), "val")
        assert reader[0].image.shape == (3, 48, 64)
    told = io.StringIO()
    told.writelines([caplog.text, *capfd.readouterr()])
    assert SECRET not in told.getvalue()
    assert KEY not in told.getvalue()
