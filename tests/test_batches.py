import io
import json
import os
import signal
from concurrent.futures import ProcessPoolExecutor
from itertools import pairwise
from multiprocessing import get_context, set_start_method
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
from PIL import Image

from segcore.batches import (
    AHEAD,
    Batches,
    LoaderLostError,
    RankSteps,
    TrainingStream,
    evaluation_batches,
    permutation,
    training_batches,
)
from segcore.decoded_cache import DecodedReader
from segcore.errors import InputError
from segcore.shards import MANIFEST, Record, ShardReader, write_shard
from segcore.transforms import Augmentation
from segcore.types import Batch, ClassTable, Sample

pytestmark = pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")

COUNT, BATCH, STEPS = 7, 6, 4
"""24 positions of 7 samples: every batch but the first straddles two epochs."""
CLASSES = ClassTable(("a", "b"), ((0, 0, 0), (9, 9, 9)), (0, 1))


@pytest.fixture(scope="module")
def reader(tmp_path_factory) -> ShardReader:
    """Seven images of different sizes in two shards."""
    folder: Path = tmp_path_factory.mktemp("shards")
    records = [record_of(number) for number in range(COUNT)]
    parts = {"train-0.parquet": records[:4], "train-1.parquet": records[4:], "empty.parquet": []}
    entries = [
        {"name": name, "rows": write_shard(folder / name, part, CLASSES), "sha256": name}
        for name, part in parts.items()
    ]
    splits = {"train": {"shards": entries[:2]}, "empty": {"shards": entries[2:]}}
    classes = {"names": CLASSES.names, "colours": CLASSES.colours, "mirror": CLASSES.mirror}
    values = {"dataset": "toy", "data_hash": "h", "classes": classes, "splits": splits}
    (folder / MANIFEST).write_text(json.dumps(values))
    return ShardReader(str(folder), "train")


def record_of(number: int) -> Record:
    generator = np.random.default_rng(number)
    height, width = 18 + number, 24 - number
    buffer = io.BytesIO()
    image = generator.integers(0, 256, (height, width, 3), np.uint8)
    Image.fromarray(image).save(buffer, "PNG")
    labels = generator.integers(0, 2, (height, width), np.uint8)
    return Record(str(number), buffer.getvalue(), labels.tobytes(), height, width)


@pytest.fixture(scope="module")
def stream(reader) -> TrainingStream:
    return TrainingStream(reader, Augmentation((16, 16)), seed=3)


def global_batches(stream, ranks: int, workers: int, start: int = 0) -> list[Batch]:
    """The shares of all ranks, put together again in the order of ranks."""
    loaders = [
        training_batches(
            stream, RankSteps(start, STEPS, BATCH, rank, ranks), loader_workers=workers
        )
        for rank in range(ranks)
    ]
    return [
        Batch(
            torch.cat([part.images for part in parts]),
            torch.cat([part.labels for part in parts]),
            sum((part.ids for part in parts), ()),
        )
        for parts in zip(*loaders, strict=True)
    ]


@pytest.mark.parametrize("workers", [1, 2])
def test_many_more_batches_than_slots_come_as_without_workers(stream, workers):
    steps = RankSteps(3, 30, BATCH, 0, 1)
    alone, beside = (
        list(training_batches(stream, steps, loader_workers=count)) for count in (0, workers)
    )
    assert len(alone) == len(beside) == 27 > 5 * (AHEAD * workers + 1)
    for one, other in zip(alone, beside, strict=True):
        assert torch.equal(one.images, other.images)
        assert torch.equal(one.labels, other.labels)
        assert one.ids == other.ids
        assert one.images.stride() == other.images.stride()


@pytest.fixture(scope="module")
def plain(stream) -> list[Batch]:
    return global_batches(stream, ranks=1, workers=0)


def assert_equal(found: list[Batch], expected: list[Batch]) -> None:
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        assert one.ids == other.ids
        assert one.images.equal(other.images)
        assert one.labels.equal(other.labels)


@pytest.mark.parametrize("ranks", [1, 2, 3])
@pytest.mark.parametrize("workers", [0, 1, 2])
def test_batches_do_not_depend_on_ranks_or_workers(stream, plain, ranks, workers):
    assert_equal(global_batches(stream, ranks, workers), plain)


def test_uneven_shares_cover_the_batch(stream, plain):
    assert_equal(global_batches(stream, ranks=4, workers=0), plain)
    shares = [len(next(iter(RankSteps(0, 1, BATCH, rank, 4)))) for rank in range(4)]
    assert sorted(shares) == [1, 1, 2, 2]


@pytest.mark.parametrize("start", range(STEPS + 1))
def test_a_resumed_stream_goes_on_exactly(stream, plain, start):
    for ranks in (1, 2):
        assert_equal(global_batches(stream, ranks, 0, start), plain[start:])


def test_an_epoch_is_a_permutation_and_batches_straddle_epochs(plain):
    ids = [int(name) for batch in plain for name in batch.ids]
    assert len(ids) == STEPS * BATCH
    epochs = [ids[first:last] for first, last in pairwise(range(0, 22, COUNT))]
    for epoch, order in enumerate(epochs):
        assert sorted(order) == list(range(COUNT))
        assert order == permutation(COUNT, 3, epoch).tolist()
    assert epochs[0] != epochs[1] != epochs[2]
    assert plain[1].ids == tuple(map(str, [*epochs[0][6:], *epochs[1][:5]]))


def test_order_is_the_seeds(stream):
    expected = np.random.default_rng([3, 5]).permutation(COUNT)
    assert permutation(COUNT, 3, 5).tolist() == expected.tolist()
    assert stream[5 * COUNT + 2].id == str(expected[2])
    orders = {tuple(permutation(50, seed, epoch)) for seed in range(4) for epoch in range(4)}
    assert len(orders) == 16


def test_augmentation_follows_epoch_and_sample_alone(reader):
    stream = TrainingStream(reader, Augmentation((16, 16)), seed=0)
    first = {stream[place].id: stream[place].image for place in range(COUNT)}
    second = {stream[place + COUNT].id: stream[place + COUNT].image for place in range(COUNT)}
    assert first.keys() == second.keys()
    assert all(not first[name].equal(second[name]) for name in first)
    again = TrainingStream(reader, Augmentation((16, 16)), seed=0)
    assert all(again[place].image.equal(first[again[place].id]) for place in reversed(range(COUNT)))
    torch.manual_seed(5)  # the global generators have no part in it
    np.random.seed(5)
    assert stream[0].image.equal(first[stream[0].id])


def test_without_augmentation_samples_arrive_unchanged(reader):
    plain = Augmentation((18, 18), (1.0, 1.0), 1.0, flip=0.0, photometric=False)
    stream = TrainingStream(reader, plain, seed=0)
    for position in range(COUNT):
        sample = stream[position]
        whole = reader[int(sample.id)]
        windows = whole.image.unfold(1, 18, 1).unfold(2, 18, 1)
        flat = windows.permute(1, 2, 0, 3, 4).flatten(0, 1)
        assert any(window.equal(sample.image) for window in flat)


@pytest.mark.parametrize("workers", [0, 1])
def test_evaluation_visits_every_image_once(reader, workers):
    seen = list[str]()
    for rank in range(3):
        batches = evaluation_batches(reader, rank=rank, ranks=3, loader_workers=workers)
        assert len(batches) == [3, 2, 2][rank]
        for batch in batches:
            (name,) = batch.ids
            whole = reader[int(name)]
            assert batch.images[0].equal(whole.image)
            assert batch.labels[0].equal(whole.labels)
            seen.append(name)
    assert sorted(seen) == [str(number) for number in range(COUNT)]


def test_more_ranks_than_images_leave_some_without(reader):
    batches = [list(evaluation_batches(reader, rank=rank, ranks=9)) for rank in range(9)]
    assert [len(part) for part in batches] == [1] * 7 + [0] * 2


def test_a_split_without_images_is_told(reader):
    empty = ShardReader(reader.folder, "empty")
    assert len(empty) == 0
    with pytest.raises(InputError, match="has no training images"):
        TrainingStream(empty, Augmentation((16, 16)), seed=0)


def test_steps_are_counted_from_the_start():
    steps = RankSteps(3, 5, 4, 1, 2)
    assert len(steps) == 2
    assert list(steps) == [[14, 15], [18, 19]]
    assert list(RankSteps(5, 5, 4, 0, 1)) == []


# --- loader workers ------------------------------------------------------------------------------


@pytest.mark.long
@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_workers_may_be_started_in_any_way(stream, plain, method):
    """New interpreters: everything that a worker needs travels to it."""
    batches = training_batches(stream, RankSteps(0, STEPS, BATCH, 0, 1), loader_workers=1)
    batches.loader.multiprocessing_context = method
    assert_equal(list(batches), plain)


@pytest.mark.parametrize("workers", [0, 2])
def test_evaluation_can_be_repeated(reader, workers):
    batches = evaluation_batches(reader, loader_workers=workers)
    first, second = list(batches), list(batches)
    assert len(first) == COUNT
    assert_equal(second, first)


@pytest.mark.parametrize("workers", [0, 2])
def test_the_decoded_cache_changes_no_batch(stream, plain, workers, tmp_path):
    for limit in (10**9, 3000):
        reader = DecodedReader(stream.reader.folder, "train", limit, tmp_path / str(limit))
        cached = TrainingStream(reader, stream.augmentation, stream.seed)
        assert_equal(global_batches(cached, 1, workers), plain)
        assert_equal(global_batches(cached, 1, workers), plain)
        assert list((tmp_path / str(limit)).glob("*/*"))


class Dying(ShardReader):
    def __getitem__(self, index: int) -> Sample:
        os.kill(os.getpid(), signal.SIGKILL)
        raise AssertionError


class Broken(ShardReader):
    def __getitem__(self, index: int) -> Sample:
        raise InputError("shard 7 cannot be read; run the stage `prepare` again")


def batches_of(kind: type[ShardReader], reader: ShardReader, workers: int) -> Batches:
    stream = TrainingStream(kind(reader.folder, "train"), Augmentation((16, 16)), seed=0)
    return training_batches(stream, RankSteps(0, 2, 2, 0, 1), loader_workers=workers)


def test_a_worker_that_was_killed_is_told(reader):
    message = r"loader worker is dead.*lower loader_workers \(now 1\)"
    with pytest.raises(LoaderLostError, match=message):
        list(batches_of(Dying, reader, 1))


@pytest.mark.parametrize("workers", [0, 1])
def test_what_a_worker_refuses_is_told_in_its_own_words(reader, workers):
    with pytest.raises(InputError) as caught:
        list(batches_of(Broken, reader, workers))
    assert str(caught.value) == "shard 7 cannot be read; run the stage `prepare` again"


class Failing(ShardReader):
    def __getitem__(self, index: int) -> Sample:
        raise RuntimeError("something else")


def test_other_errors_pass_through(reader):
    with pytest.raises(RuntimeError, match="something else"):
        list(batches_of(Failing, reader, 0))


def resident() -> float:
    """10^6 bytes of this process and of those that it started, shared pages counted once."""
    process = psutil.Process()
    everyone = [process, *process.children(recursive=True)]
    return sum(each.memory_full_info().uss for each in everyone) / 1e6


@pytest.mark.long
@pytest.mark.parametrize("workers", [0, 2])
def test_memory_stays_flat_over_epochs(tmp_path, workers):
    """48 samples of 1.2 MB each, eight epochs: what one epoch left over would show."""
    records = [large_record(number) for number in range(48)]
    rows = write_shard(tmp_path / "a.parquet", records, CLASSES)
    shard = {"name": "a.parquet", "rows": rows, "sha256": "aa"}
    classes = {"names": CLASSES.names, "colours": CLASSES.colours, "mirror": CLASSES.mirror}
    values = {"dataset": "toy", "data_hash": "h", "classes": classes}
    (tmp_path / MANIFEST).write_text(
        json.dumps(values | {"splits": {"train": {"shards": [shard]}}})
    )
    # in a process of its own: forks of one that ran other tests unshare its pages bit by bit
    with ProcessPoolExecutor(1, get_context("spawn")) as alone:
        used = alone.submit(memory_over_epochs, str(tmp_path), workers).result()
    assert len(used) == 8
    # four epochs decode 230 MB; what is prefetched comes and goes
    assert max(used[4:]) - min(used[2:4]) <= 20, used


def memory_over_epochs(folder: str, workers: int) -> list[float]:
    set_start_method("fork", force=True)  # of loader workers, as in a training
    stream = TrainingStream(ShardReader(folder, "train"), Augmentation((256, 256)), seed=0)
    used = list[float]()
    batches = training_batches(stream, RankSteps(0, 96, 4, 0, 1), loader_workers=workers)
    for number, _ in enumerate(batches):
        if number % 12 == 11:
            used.append(resident())
    return used


def large_record(number: int) -> Record:
    generator = np.random.default_rng(number)
    buffer = io.BytesIO()
    small = generator.integers(0, 256, (40, 40, 3), np.uint8)
    Image.fromarray(small).resize((640, 480)).save(buffer, "PNG")
    labels = np.zeros((480, 640), np.uint8)
    return Record(str(number), buffer.getvalue(), labels.tobytes(), 480, 640)
