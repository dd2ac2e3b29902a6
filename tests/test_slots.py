import pickle
from multiprocessing import get_context
from typing import Any

import torch

from segcore.slots import Placed, Slots, collate
from segcore.types import Batch, Sample

SIZE = 5, 7


def sample(number: int, size: tuple[int, int] = SIZE) -> Sample:
    generator = torch.Generator().manual_seed(number)
    pixels = torch.randint(0, 256, (*size, 3), dtype=torch.uint8, generator=generator)
    labels = torch.randint(0, 256, size, dtype=torch.uint8, generator=generator)
    return Sample(f"sample {number}", pixels.permute(2, 0, 1), labels)


def equal(one: Any, other: Batch) -> bool:
    alike = torch.equal(one.images, other.images) and torch.equal(one.labels, other.labels)
    return alike and one.ids == other.ids and one.images.stride() == other.images.stride()


def slots(count: int = 3, images: int = 2) -> Slots:
    return Slots(count, 4 * images * SIZE[0] * SIZE[1])


def test_a_batch_in_a_slot_is_that_batch_and_stays_so():
    held, taken = slots(), list[Batch]()
    expected = [collate([sample(2 * number), sample(2 * number + 1)]) for number in range(7)]
    for number in range(7):  # each slot twice and more
        placed = held.put(number, [sample(2 * number), sample(2 * number + 1)])
        assert isinstance(placed, Placed)
        assert len(pickle.dumps(placed)) < 200  # all that is sent
        taken.append(held.take(placed))
    assert all(map(equal, taken, expected))


def test_batches_on_their_way_do_not_touch_each_other():
    held = slots(count=3)
    placed = [held.put(number, [sample(number), sample(number + 9)]) for number in range(4, 7)]
    for number, each in enumerate(placed, start=4):
        assert isinstance(each, Placed)
        assert equal(held.take(each), collate([sample(number), sample(number + 9)]))


def test_what_fits_into_no_slot_goes_as_it_is():
    assert equal(slots().put(0, [sample(0)]), collate([sample(0)]))
    larger = [sample(0, (6, 7)), sample(1, (6, 7))]
    assert equal(slots().put(0, larger), collate(larger))


def put_elsewhere(held: Slots) -> bool:
    two = [sample(0), sample(1)]
    return equal(held.put(0, two), collate(two))


def test_a_process_that_was_not_forked_sends_batches_as_they_are():
    with get_context("spawn").Pool(1) as elsewhere:
        assert elsewhere.apply(put_elsewhere, (slots(),))
