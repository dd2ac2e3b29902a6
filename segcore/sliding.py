"""Images larger than memory allows at once, seen through windows that overlap.

Scores are averaged where windows overlap, as in MMSegmentation's sliding mode: each window's are
enlarged to its own size, added up, and divided by how many windows see a pixel.
"""

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from segcore.errors import InputError
from segcore.layers import resize
from segcore.memory import free_memory, peak_memory, room
from segcore.transforms import normalise

T = TypeVar("T")
Pair = tuple[int, int]
View = Tensor
"""Images (b 3 h w): uint8 as decoded, or float32 and normalised already."""

MOST_WINDOWS = 16
"""In a batch; a GPU has nothing to gain from more."""
SMALLEST = 64
"""Pixels of a window's side, at least."""
PROBE = 256
"""Pixels of the side of what is looked at to learn how much memory a network needs."""
SHORT_OF_MEMORY = ("allocate memory", "bad_alloc")
HEAVY = 4096
"""Bytes per pixel that no network needs for a pass; what fits in spite of them is not measured."""

_smaller: ContextVar[list[Pair]] = ContextVar("smaller")


def window_places(length: int, window: int, stride: int) -> list[Pair]:
    """First and end of each window along an axis. The last one is moved inward; where the axis
    is shorter than a window there is a single, shorter one."""
    window = min(window, length)
    count = max(length - window + stride - 1, 0) // stride + 1
    ends = (min(number * stride + window, length) for number in range(count))
    return [(end - window, end) for end in ends]


def in_windows(
    network: nn.Module,
    view: View,
    window: Pair,
    stride: Pair,
    read: Callable[[Iterator[Float[Tensor, "b k rows w"]]], T],
) -> T:
    """What ``read`` makes of the averaged scores, which it gets in bands of rows from above; a
    band holds until the next one is asked for.

    Where memory runs short, windows and stride are halved, which is told, since scores then are
    those of another protocol. Raises InputError where the smallest windows do not fit.
    """
    while (result := in_these_windows(network, view, window, stride, read)) is None:
        window, stride = halved(view, window), (max(stride[0] // 2, 1), max(stride[1] // 2, 1))
    return result


def in_these_windows(
    network: nn.Module,
    view: View,
    window: Pair,
    stride: Pair,
    read: Callable[[Iterator[Float[Tensor, "b k rows w"]]], T],
) -> T | None:
    """The same, by this protocol alone: where memory runs short, fewer windows at a time, then
    sums in main memory, then None. ``read`` may be called twice."""
    for home in dict.fromkeys((device_of(network), torch.device("cpu"))):
        bands = _bands(network, view, window, stride, home)
        if (result := _unless_short_of_memory(partial(read, bands))) is not None:
            return result
    return None


def halved(view: View, window: Pair) -> Pair:
    """Windows of half the size; tells so. Raises InputError where they would be too small."""
    height, width = (min(pair) for pair in zip(window, view.shape[-2:], strict=True))
    smaller = (height + 1) // 2, (width + 1) // 2
    size = "x".join(map(str, view.shape[-2:]))
    if min(smaller) < SMALLEST:
        raise InputError(
            f"an image of {size} pixels does not fit in memory, even in windows of "
            f"{height}x{width}; free some memory, or shrink it (max_side of the dataset)"
        )
    logging.getLogger(__name__).warning(
        "an image of %s pixels does not fit in memory in one piece of %dx%d; it is seen through "
        "windows of %dx%d instead, as another protocol would",
        *(size, height, width, *smaller),
    )
    if (told := _smaller.get(None)) is not None:
        told.append(smaller)
    return smaller


@contextmanager
def smaller_windows() -> Iterator[list[Pair]]:
    """Those that images were seen through in the meantime because memory ran short."""
    token = _smaller.set(told := list[Pair]())
    try:
        yield told
    finally:
        _smaller.reset(token)


def whole(
    network: nn.Module, view: View, enlargement: float = 1.0
) -> Float[Tensor, "b k new_h new_w"] | None:
    """The network's scores at its own stride; None where memory does not suffice.

    ``enlargement`` is how many times the pixels of ``view`` a pass takes at once.
    """
    if not _may_fit(network, view, enlargement):
        return None
    return _unless_short_of_memory(partial(_scores, network, view))


def _unless_short_of_memory(action: Callable[[], T]) -> T | None:
    """The result of ``action``; None where there was not memory enough."""
    try:
        return action()
    except (MemoryError, RuntimeError) as error:
        # torch has a class of its own for GPUs only; on a CPU it has these words.
        short = isinstance(error, MemoryError | torch.OutOfMemoryError)
        if not short and not any(words in str(error) for words in SHORT_OF_MEMORY):
            raise
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return None


def _bands(
    network: nn.Module, view: View, window: Pair, stride: Pair, home: torch.device
) -> Iterator[Tensor]:
    height, width = view.shape[-2:]
    rows = window_places(height, window[0], stride[0])
    columns = window_places(width, window[1], stride[1])
    down, across = (_coverage(*each, home) for each in ((rows, height), (columns, width)))
    sums, top, looks = torch.zeros(()), 0, _Looks(network, view)
    for number, (first, last) in enumerate(rows):
        for (left, right), scores in looks.along((first, last), columns):
            if not sums.ndim:
                sums = room((*scores.shape[:2], last, width), home)
            sums[:, :, :, left:right] += scores.to(home)
        end = rows[number + 1][0] if number + 1 < len(rows) else height
        yield sums[:, :, : end - top].div_(down[top:end, None] * across)
        if end < height:
            kept = sums[:, :, end - top :].clone()
            sums[:, :, : kept.shape[2]] = kept
            sums[:, :, kept.shape[2] :] = 0
        top = end


@dataclass
class _Looks:
    """A network's scores of windows: on a GPU of as many at a time as fit, else one by one."""

    network: nn.Module
    view: View
    batch: int = 0
    """Windows at a time; not known before the first one."""

    def along(self, rows: Pair, columns: Sequence[Pair]) -> Iterator[tuple[Pair, Tensor]]:
        ahead = columns
        while ahead:
            places = ahead[: self.batch or 1]
            pieces = [self.view[:, :, slice(*rows), slice(*each)] for each in places]
            scores = self._scores(torch.cat(pieces), len(columns))
            if scores is not None:
                yield from zip(places, scores.split(len(self.view)), strict=True)
                ahead = ahead[len(places) :]

    def _scores(self, pieces: View, most: int) -> Tensor | None:
        """None where so many windows do not fit; the next time there are fewer."""
        if not self.batch:
            self.batch, scores = _first(self.network, pieces, most)
        elif self.batch == 1:
            scores = enlarged(self.network, pieces)
        else:
            scores = _unless_short_of_memory(partial(enlarged, self.network, pieces))
            self.batch = self.batch if scores is not None else self.batch // 2
        return scores


def _first(network: nn.Module, piece: View, most: int) -> tuple[int, Tensor]:
    """How many windows a GPU takes at once, by what the first one needs; and its scores.

    A CPU takes one: more would be no faster.
    """
    device = device_of(network)
    if device.type != "cuda":
        return 1, enlarged(network, piece)
    found = list[Tensor]()
    need = peak_memory(lambda: found.append(enlarged(network, piece)), device)
    fitting = int(0.6 * free_memory(device)) // max(need, 1)
    return max(1, min(fitting, most, MOST_WINDOWS)), found[0]


def enlarged(network: nn.Module, piece: View) -> Float[Tensor, "b k h w"]:
    """The network's scores at the size of ``piece``."""
    return resize(_scores(network, piece), piece.shape[-2:])


def _scores(network: nn.Module, piece: View) -> Float[Tensor, "b k new_h new_w"]:
    given = piece.to(device_of(network))
    pixels = normalise(given) if given.dtype == torch.uint8 else given
    return network(pixels).logits.float()


def _coverage(places: list[Pair], length: int, device: torch.device) -> Float[Tensor, "length"]:
    """By how many windows each row or column is seen."""
    counts = torch.zeros(length, device=device)
    for first, last in places:
        counts[first:last] += 1
    return counts


def device_of(network: nn.Module) -> torch.device:
    return next(network.parameters()).device


def _may_fit(network: nn.Module, view: View, enlargement: float) -> bool:
    """Whether one pass over ``view`` has a chance. A GPU says when its memory is full, but a
    system may end a process that takes too much; so where that is near a part is measured."""
    device, pixels = device_of(network), view.shape[0] * view.shape[-2] * view.shape[-1]
    free = free_memory(device)
    light = enlargement * pixels * HEAVY <= free or min(view.shape[-2:]) <= PROBE
    if device.type == "cuda" or light:
        return True
    part = view[:, :, :PROBE, :PROBE]
    need = peak_memory(lambda: _scores(network, part), device)
    return need * pixels <= free * part.shape[0] * PROBE**2
