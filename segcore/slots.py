"""Memory in which loader workers leave their batches.

torch sends each batch through shared memory of its own, whose pages cost the system more than
their content costs us: a batch of crops took longer to arrive than to make. Slots are there once.
"""

from mmap import mmap
from typing import Any, NamedTuple

import torch
from torch import Tensor

from segcore.types import Batch, Sample


class Placed(NamedTuple):
    """A batch that lies in a slot."""

    number: int
    ids: tuple[str, ...]
    size: tuple[int, int]
    """Height and width of its images."""


class Slots:
    """Batch n lies in slot n modulo ``count``. Batches are taken in order, and no more than
    ``count`` are on their way or being taken at a time.

    They are shared with processes that are forked from this one; in others there are none, and
    batches go as they are, as do those that are not of ``size`` bytes. The memory is anonymous, so
    that what a container grants to /dev/shm, often 64 MB, is no limit.
    """

    def __init__(self, count: int, size: int) -> None:
        self.count, self.size = count, size
        memory = torch.frombuffer(mmap(-1, count * size), dtype=torch.uint8)
        self.memory: Tensor | None = memory.view(count, size)

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "memory": None}

    def put(self, number: int, samples: list[Sample]) -> Placed | Batch:
        """In a loader worker."""
        height, width = samples[0].labels.shape
        if self.memory is None or self.size != 4 * len(samples) * height * width:
            return collate(samples)
        placed = Placed(number, tuple(sample.id for sample in samples), (height, width))
        collate(samples, self._lying(placed))
        return placed

    def take(self, placed: Placed) -> Batch:
        """In the process that asked for it: a copy, in pinned memory where there is a GPU."""
        pinned, kept = torch.cuda.is_available(), self._lying(placed)
        images, labels = (
            torch.empty_like(each, pin_memory=pinned).copy_(each)
            for each in (kept.images, kept.labels)
        )
        return Batch(images, labels, placed.ids)

    def _lying(self, placed: Placed) -> Batch:
        assert self.memory is not None
        slot, pixels = self.memory[placed.number % self.count], self.size // 4
        images = slot[: 3 * pixels].view(-1, *placed.size, 3).permute(0, 3, 1, 2)
        return Batch(images, slot[3 * pixels :].view(-1, *placed.size), placed.ids)


def collate(samples: list[Sample], place: Batch | None = None) -> Batch:
    """Images stay pixel by pixel in memory (channels last), as they are decoded.

    Raises RuntimeError where they are not of one size. Into ``place`` where it is given.
    """
    ids, images, labels = zip(*samples, strict=True)
    pixels = torch.stack(
        [image.permute(1, 2, 0) for image in images],
        out=place and place.images.permute(0, 2, 3, 1),
    )
    return Batch(pixels.permute(0, 3, 1, 2), torch.stack(labels, out=place and place.labels), ids)
