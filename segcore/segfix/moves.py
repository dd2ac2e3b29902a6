"""What SegFix learns from labels: which way a pixel near a boundary has to go to be inside.

A boundary pixel is mapped to one of eight directions, every other one stays (Yuan et al., 2020,
arXiv:2007.04269, section 3.2). So a label map becomes another label map, of ``MOVES``; whatever
the project does with labels and classes it can do with these.
"""

import cv2
import numpy as np
import torch
from jaxtyping import Float32, Int8, UInt8
from torch import Tensor

from segcore.types import IGNORE, ClassTable

__all__ = ["MOVES", "OFFSETS", "STAY", "distances_and_bins", "moves_of"]

STAY = 0
OFFSETS = ((0, 0), (0, -1), (-1, -1), (-1, 0), (-1, 1), (0, 1), (1, 1), (1, 0), (1, -1))
"""Rows and columns of one step, for each class of ``MOVES``; directions in the paper's order."""

MOVES = ClassTable(
    names=(
        "stay",
        "left",
        "up left",
        "up",
        "up right",
        "right",
        "down right",
        "down",
        "down left",
    ),
    colours=(
        (40, 40, 40),
        (230, 60, 60),
        (230, 150, 40),
        (220, 220, 50),
        (110, 200, 60),
        (50, 200, 180),
        (60, 130, 230),
        (130, 80, 220),
        (220, 80, 190),
    ),
    mirror=(0, 5, 4, 3, 2, 1, 8, 7, 6),
)

FAR = 250.0
"""The most pixels that a distance is said to be, as published."""
REACH = 2
"""Pixels around one that its gradient is measured over."""
FLAT = 1e-3
"""A gradient below it has no direction; the least one of a real slope is about 0.1."""

_j, _i = np.mgrid[-REACH : REACH + 1, -REACH : REACH + 1].astype(np.float32)
_SLOPE = _i / np.maximum(_i**2 + _j**2, 1)
"""The paper's 5x5 form of the Sobel kernel, along the columns."""

LabelMap = UInt8[np.ndarray, "h w"]
Number = int | float  # YAML writes 2.0 as 2 at times


def moves_of(
    labels: UInt8[Tensor, "h w"], *, boundary_width: Number = 5, smallest_region: int = 100
) -> UInt8[Tensor, "h w"]:
    """``MOVES`` for every labelled pixel, IGNORE for others.

    A pixel moves if it lies at most ``boundary_width`` pixels from the next pixel of another
    class, and if one direction leads away from there: the middle line of a thin region stays,
    where the published code lets it go to the right. Classes with fewer than ``smallest_region``
    pixels are not learned (IGNORE), where that code takes all their pixels for boundary.
    """
    distances, bins = distances_and_bins(labels.numpy(), smallest_region)
    moves = np.where(distances <= boundary_width, bins + 1, STAY).astype(np.uint8)
    moves[distances == 0] = IGNORE
    return torch.from_numpy(moves)


def distances_and_bins(
    labels: LabelMap, smallest_region: int = 1
) -> tuple[Float32[np.ndarray, "h w"], Int8[np.ndarray, "h w"]]:
    """Pixels to the next pixel of another class or of none, and the way that leads away from it.

    Distances are Euclidean, at most 250, and 0 where not labelled or in a class with fewer than
    ``smallest_region`` pixels. The way is the gradient of the distance within the class, in
    eight bins of 45 degrees: ``OFFSETS[1:]``, or -1 where there is none. Beyond the border of the
    image the outermost pixels are repeated, so that it is no boundary.
    """
    distances = np.zeros(labels.shape, np.float32)
    bins = np.full(labels.shape, -1, np.int8)
    counts = np.bincount(labels.ravel(), minlength=IGNORE + 1)[:IGNORE]
    for value in np.flatnonzero(counts >= max(smallest_region, 1)):
        inside = labels == value
        window = _around(inside)
        inside = inside[window]
        away = _distance(inside)
        distances[window][inside] = away[inside]
        bins[window][inside] = _bins(away)[inside]
    return distances, bins


def _around(inside: np.ndarray) -> tuple[slice, slice]:
    """The window of the class and of all pixels that its distances and gradients depend on."""
    places = [np.flatnonzero(inside.any(axis=axis)) for axis in (1, 0)]
    rows, columns = (slice(max(each[0] - REACH, 0), each[-1] + REACH + 1) for each in places)
    return rows, columns


def _distance(inside: np.ndarray) -> Float32[np.ndarray, "hh ww"]:
    away = cv2.distanceTransform(inside.view(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    return np.minimum(away, np.float32(FAR))


def _bins(away: Float32[np.ndarray, "hh ww"]) -> Int8[np.ndarray, "hh ww"]:
    across = cv2.filter2D(away, -1, _SLOPE, borderType=cv2.BORDER_REPLICATE)
    down = cv2.filter2D(away, -1, _SLOPE.T, borderType=cv2.BORDER_REPLICATE)
    eighths = np.arctan2(down, across) * (4 / np.pi)  # -4 is left, -2 up, 0 right, 2 down
    bins = (np.floor(eighths + 4.5) % 8).astype(np.int8)
    return np.where(np.hypot(across, down) < FLAT, np.int8(-1), bins)
