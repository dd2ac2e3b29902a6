"""Images larger than memory allows at once, seen through windows that overlap.

Scores are averaged where windows overlap, as in MMSegmentation's sliding mode: each window's are
enlarged to its own size, added up, and divided by how many windows see a pixel.
"""

import logging
import resource
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TypeVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from segcore.errors import InputError
from segcore.layers import resize
from segcore.memory import peak_memory
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
NO_LIMIT = 1 << 62
HEAVY = 4096
"""Bytes per pixel that no network needs for a pass; what fits in spite of them is not measured."""


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

    Where memory runs short: again with the sums in main memory, then with windows and stride
    halved, which is told, since scores then are those of another protocol. Raises InputError
    where the smallest windows do not fit.
    """
    home = device_of(network)
    while True:
        bands = _bands(network, view, window, stride, home)
        if (result := _unless_short_of_memory(partial(read, bands))) is not None:
            return result
        if home.type != "cpu":
            home = torch.device("cpu")
            continue
        window, stride = halved(view, window), (max(stride[0] // 2, 1), max(stride[1] // 2, 1))


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
    return smaller


def whole(network: nn.Module, view: View) -> Float[Tensor, "b k new_h new_w"] | None:
    """The network's scores at its own stride; None where memory does not suffice."""
    if not _may_fit(network, view):
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
    sums, top, batch = torch.zeros(()), 0, 1
    for number, (first, last) in enumerate(rows):
        start = 0
        while start < len(columns):
            places = columns[start : start + batch]
            pieces = [view[:, :, first:last, left:right] for left, right in places]
            if number == 0 and start == 0:
                batch, scores = _first(network, pieces[0], len(columns))
                sums = torch.zeros(*scores.shape[:2], last, width, device=home)
            else:
                scores = enlarged(network, torch.cat(pieces))
            for (left, right), each in zip(places, scores.split(len(view)), strict=True):
                sums[:, :, :, left:right] += each.to(home)
            start += len(places)
        end = rows[number + 1][0] if number + 1 < len(rows) else height
        yield sums[:, :, : end - top].div_(down[top:end, None] * across)
        if end < height:
            kept = sums[:, :, end - top :].clone()
            sums[:, :, : kept.shape[2]] = kept
            sums[:, :, kept.shape[2] :] = 0
        top = end


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


def _may_fit(network: nn.Module, view: View) -> bool:
    """Whether one pass over ``view`` has a chance. A GPU says when its memory is full, but a
    system may end a process that takes too much; so where that is near a part is measured."""
    device, pixels = device_of(network), view.shape[0] * view.shape[-2] * view.shape[-1]
    free = free_memory(device)
    light = pixels * HEAVY <= free or min(view.shape[-2:]) <= PROBE
    if device.type == "cuda" or light:
        return True
    part = view[:, :, :PROBE, :PROBE]
    need = peak_memory(lambda: _scores(network, part), device)
    return need * pixels <= free * part.shape[0] * PROBE**2


def free_memory(device: torch.device) -> int:
    """Bytes that this process can still get there, as far as the system says."""
    if device.type == "cuda":
        unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + unused
    limits = [_field("/proc/meminfo", "MemAvailable")]
    for kind, field in ((resource.RLIMIT_AS, "VmSize"), (resource.RLIMIT_DATA, "VmData")):
        most = resource.getrlimit(kind)[0]
        if most != resource.RLIM_INFINITY:
            limits.append(most - _field("/proc/self/status", field))
    return max(0, min(*limits, _left_in_group(Path("/sys/fs/cgroup"))))


def _left_in_group(group: Path) -> int:
    """Of the limit of the container, where it has one; files read before give way."""
    try:
        most, used = (int((group / f"memory.{kind}").read_text()) for kind in ("max", "current"))
        stat = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
        return most - used + int(stat["inactive_file"])
    except (OSError, ValueError, KeyError):
        return NO_LIMIT


def _field(file: str, name: str) -> int:
    """Bytes; no limit where the system does not tell."""
    try:
        lines = Path(file).read_text(encoding="utf-8").splitlines()
    except OSError:
        return NO_LIMIT
    found = [line.split()[1] for line in lines if line.startswith(f"{name}:")]
    return int(found[0]) * 1024 if found else NO_LIMIT
