"""Attention inside the parts of a map instead of over the whole of it."""

import torch
from jaxtyping import Float
from torch import Tensor

from segcore.layers.attention import attend

_WINDOWS, _BACK_FROM_WINDOWS = (0, 2, 4, 1, 3, 5), (0, 3, 1, 4, 2, 5)
_PLACES, _BACK_FROM_PLACES = (0, 3, 5, 1, 2, 4), (0, 3, 4, 1, 5, 2)
"""A map's axes are image, channel, row of windows, row in the window, column of windows, column
in the window. These orders put first what tells one group from another; and their inverses."""


def attend_windows(
    query: Float[Tensor, "b d h w"],
    key: Float[Tensor, "b d h w"],
    value: Float[Tensor, "b e h w"],
    rows: int,
    columns: int,
    *,
    interlaced: bool = False,
) -> Float[Tensor, "b e h w"]:
    """Attention inside each of ``rows`` by ``columns`` equal windows that tile the map.

    ``interlaced`` has pixels attend to those with the same place in every window instead. The
    sides of the map must be multiples of ``rows`` and ``columns``.
    """
    groups = (group_pixels(x, rows, columns, interlaced=interlaced) for x in (query, key, value))
    mixed = attend(*groups)
    return ungroup_pixels(mixed, query.shape[-2:], rows, columns, interlaced=interlaced)


def attend_grid(
    query: Float[Tensor, "b d h w"],
    key: Float[Tensor, "b d h w"],
    value: Float[Tensor, "b e h w"],
    grid: int,
) -> Float[Tensor, "b e h w"]:
    """Attention inside grid x grid windows; the last ones take what division leaves over, as in
    OCNet's pyramid (Yuan et al., 2018, arXiv:1809.00916)."""
    if grid == 1:
        return attend_windows(query, key, value, 1, 1)
    tall, wide = (length // grid * (grid - 1) for length in query.shape[-2:])
    bands = []
    for vertical, rows in ((slice(tall), grid - 1), (slice(tall, None), 1)):
        q, k, v = (x[:, :, vertical] for x in (query, key, value))
        equal = attend_windows(q[..., :wide], k[..., :wide], v[..., :wide], rows, grid - 1)
        last = attend_windows(q[..., wide:], k[..., wide:], v[..., wide:], rows, 1)
        bands.append(torch.cat([equal, last], dim=3))
    return torch.cat(bands, dim=2)


def group_pixels(
    x: Float[Tensor, "b c h w"], rows: int, columns: int, *, interlaced: bool
) -> Float[Tensor, "g c n"]:
    """The pixels of each window as tokens, or of each place in a window if ``interlaced``."""
    batch, channels, height, width = x.shape
    windows = x.reshape(batch, channels, rows, height // rows, columns, width // columns)
    return windows.permute(_PLACES if interlaced else _WINDOWS).flatten(4).flatten(0, 2)


def ungroup_pixels(
    groups: Float[Tensor, "g c n"],
    size: torch.Size,
    rows: int,
    columns: int,
    *,
    interlaced: bool,
) -> Float[Tensor, "b c h w"]:
    """Undoes ``group_pixels`` on a map of ``size`` (height, width)."""
    tall, wide = size[0] // rows, size[1] // columns
    first, last = ((tall, wide), (rows, columns)) if interlaced else ((rows, columns), (tall, wide))
    batch = groups.shape[0] // (first[0] * first[1])
    windows = groups.reshape(batch, *first, groups.shape[1], *last)
    back = _BACK_FROM_PLACES if interlaced else _BACK_FROM_WINDOWS
    return windows.permute(back).flatten(4).flatten(2, 3)
