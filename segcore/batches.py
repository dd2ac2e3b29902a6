"""The order of training samples, and the batches that loaders make of it.

Training is one endless stream: a permutation per epoch, a pure function of (seed, epoch). Step
i takes ``stream[i*B : (i+1)*B]``; ranks take slices inside that global batch. So batches do not
depend on the number of ranks or loader workers, and the position is one integer, the step.
"""

from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from jaxtyping import Int
from torch.utils.data import DataLoader, Dataset

from segcore.errors import InputError
from segcore.shards import ShardReader
from segcore.slots import Placed, Slots, collate
from segcore.transforms import Augmentation
from segcore.types import Batch, Sample

AHEAD = 2
"""Batches that each loader worker has been asked for at a time."""


@lru_cache(maxsize=4)
def permutation(count: int, seed: int, epoch: int) -> Int[np.ndarray, "n"]:
    """The order of ``count`` samples in an epoch."""
    return np.random.default_rng([seed, epoch]).permutation(count)


class TrainingStream(Dataset[Sample]):
    """The augmented sample at each position of the endless stream.

    Augmentation is seeded by (seed, epoch, sample): the same sample in the same epoch looks the
    same, whoever loads it.
    """

    def __init__(self, reader: ShardReader, augmentation: Augmentation, seed: int) -> None:
        if not len(reader):
            raise InputError(f"{reader.folder} has no training images")
        self.reader, self.augmentation, self.seed = reader, augmentation, seed

    def __getitem__(self, position: int) -> Sample:
        epoch, place = divmod(position, len(self.reader))
        index = int(permutation(len(self.reader), self.seed, epoch)[place])
        generator = np.random.default_rng([self.seed, epoch, index, 1])
        return self.augmentation(self.reader[index], generator)


class RankSteps:
    """For each step from ``start`` to ``steps``, the positions that belong to one rank."""

    def __init__(self, start: int, steps: int, batch_size: int, rank: int, ranks: int) -> None:
        self.range = range(start, steps)
        first, last = (batch_size * r // ranks for r in (rank, rank + 1))
        self.batch_size, self.slice, self.share = batch_size, (first, last), last - first

    def __len__(self) -> int:
        return len(self.range)

    def __iter__(self) -> Iterator[list[int]]:
        first, last = self.slice
        for step in self.range:
            yield list(range(step * self.batch_size + first, step * self.batch_size + last))


class LoaderLostError(RuntimeError):
    """A process that loads images is gone. Whoever restarts workers may try again."""


class Batches:
    """A loader's batches, in order, as often as they are asked for.

    Raises InputError with one line of cause where a loader worker fails, and LoaderLostError where
    one dies.
    """

    def __init__(self, loader: DataLoader[Any], slots: Slots | None = None) -> None:
        self.loader, self.slots = loader, slots

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[Batch]:
        try:
            for each in self.loader:
                yield self.slots.take(each) if self.slots and isinstance(each, Placed) else each
        except InputError as error:  # from a worker: its own words stand behind its traceback
            said = str(error).rpartition(f"{InputError.__module__}.{InputError.__name__}: ")[2]
            raise InputError(said.strip()) from None
        except RuntimeError as error:
            if not str(error).startswith("DataLoader worker"):
                raise
            raise LoaderLostError(
                f"a loader worker is dead ({error}); where memory or shared memory (/dev/shm) "
                f"ran short, lower loader_workers (now {self.loader.num_workers}) or batch_size"
            ) from None


def training_batches(
    stream: TrainingStream, positions: RankSteps, *, loader_workers: int = 0
) -> Batches:
    """One batch per step, this rank's share of it."""
    if not loader_workers:
        return Batches(_loader(stream, positions, collate, loader_workers))
    height, width = stream.augmentation.crop
    slots = Slots(AHEAD * loader_workers + 1, 4 * positions.share * height * width)
    loader = _loader(_IntoSlots(stream, slots), _Numbered(positions), _as_it_is, loader_workers)
    return Batches(loader, slots)


def evaluation_batches(
    reader: ShardReader, *, rank: int = 0, ranks: int = 1, loader_workers: int = 0
) -> Batches:
    """Every image of the split exactly once over all ranks, one by one, at its own size."""
    positions = [[index] for index in range(rank, len(reader), ranks)]
    return Batches(_loader(reader, positions, collate, loader_workers))


def _loader(
    samples: Any, positions: Any, collate_fn: Callable[[Any], Any], loader_workers: int
) -> DataLoader[Any]:
    return DataLoader(
        samples,
        batch_sampler=positions,
        collate_fn=collate_fn,
        num_workers=loader_workers,
        prefetch_factor=AHEAD if loader_workers else None,
        pin_memory=torch.cuda.is_available(),
        worker_init_fn=_one_thread,
        persistent_workers=loader_workers > 0,  # a validation comes again and again
    )


class _Numbered:
    """The positions of each batch with its number."""

    def __init__(self, positions: RankSteps) -> None:
        self.positions = positions

    def __len__(self) -> int:
        return len(self.positions)

    def __iter__(self) -> Iterator[tuple[int, list[int]]]:
        return enumerate(self.positions)


class _IntoSlots(Dataset[Any]):
    """Whole batches, each in its slot."""

    def __init__(self, stream: TrainingStream, slots: Slots) -> None:
        self.stream, self.slots = stream, slots

    def __getitems__(self, asked: tuple[int, list[int]]) -> Placed | Batch:
        number, positions = asked
        return self.slots.put(number, [self.stream[each] for each in positions])


def _as_it_is(batch: Placed | Batch) -> Placed | Batch:
    return batch


def _one_thread(_: int) -> None:
    torch.set_num_threads(1)
