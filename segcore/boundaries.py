"""How well the edges of classes are found: boundary IoU and boundary F.

Both look at all classes of an image at once: a pixel is near an edge where the labels around it
are not all its own. Pixels without a label belong to no class, in the prediction as well.
"""

from math import ceil, hypot

import cv2
import numpy as np
from jaxtyping import Bool, Float, Int, UInt8

from segcore.types import IGNORE

LabelMap = UInt8[np.ndarray, "h w"]

BAND = 0.02
"""Of the diagonal: how far inside a class its edge reaches, for boundary IoU."""
TOLERANCE = 0.008
"""Of the diagonal: how far apart edges may be and still meet, for boundary F."""


def boundary_counts(
    labels: LabelMap, predicted: LabelMap, num_classes: int
) -> Int[np.ndarray, "3 k"]:
    """Pixels near the edge of their class: labelled so, predicted so, both.

    The IoU of these is boundary IoU (Cheng et al., CVPR 2021, arXiv:2103.16562): a pixel counts
    where it is within 2 % of the image's diagonal (a square's distance, as in the authors' code)
    of a pixel of another class, or of the image's end.
    """
    known = np.where(labels == IGNORE, labels, predicted)
    distance = max(1, round(BAND * hypot(*labels.shape)))
    true_edge, found_edge = near_edge(labels, distance), near_edge(known, distance)
    both = true_edge & found_edge & (labels == known)
    parts = labels[true_edge], known[found_edge], labels[both]
    return np.stack([np.bincount(part, minlength=256)[:num_classes] for part in parts])


def near_edge(labels: LabelMap, distance: int) -> Bool[np.ndarray, "h w"]:
    """Pixels in whose square of 2 x ``distance`` + 1 there is another label, or the outside."""
    square = np.ones((2 * distance + 1, 2 * distance + 1), np.uint8)
    outside = cv2.BORDER_CONSTANT
    highest = cv2.dilate(labels, square, borderType=outside, borderValue=(IGNORE,))
    return cv2.erode(labels, square) != highest


def boundary_f(labels: LabelMap, predicted: LabelMap, num_classes: int) -> Float[np.ndarray, "k"]:
    """The F measure of each class's contour; nan for a class with no contour in either map.

    Precision is the share of the predicted contour that the labelled one is near to, recall the
    reverse (Csurka et al., BMVC 2013). Contours and tolerance, 0.8 % of the diagonal, are those
    of DAVIS (Perazzi et al., CVPR 2016).
    """
    known = np.where(labels == IGNORE, labels, predicted)
    most = ceil(TOLERANCE * hypot(*labels.shape))
    scores = np.full(num_classes, np.nan)
    here = np.flatnonzero(np.bincount(labels.ravel(), minlength=256)[:num_classes])
    found = np.flatnonzero(np.bincount(known.ravel(), minlength=256)[:num_classes])
    for index in np.union1d(here, found):
        true, guessed = labels == index, known == index
        window = _around(true | guessed)
        scores[index] = _f_measure(contour(true[window]), contour(guessed[window]), most)
    return scores


def _around(inside: Bool[np.ndarray, "h w"]) -> tuple[slice, slice]:
    """The window of these pixels and of their contour, one pixel around: nothing else matters."""
    places = [np.flatnonzero(inside.any(axis=axis)) for axis in (1, 0)]
    rows, columns = (slice(max(each[0] - 1, 0), each[-1] + 2) for each in places)
    return rows, columns


def contour(mask: Bool[np.ndarray, "h w"]) -> Bool[np.ndarray, "h w"]:
    """Pixels that differ from the one on the right, below, or both."""
    padded = np.pad(mask, (0, 1), mode="edge")
    right, below, across = padded[:-1, 1:], padded[1:, :-1], padded[1:, 1:]
    return (mask != right) | (mask != below) | (mask != across)


def _f_measure(true: Bool[np.ndarray, "h w"], found: Bool[np.ndarray, "h w"], most: int) -> float:
    if not true.any() and not found.any():
        return np.nan
    if not true.any() or not found.any():
        return 0.0
    precision = (_distance_to(true)[found] <= most).mean()
    recall = (_distance_to(found)[true] <= most).mean()
    return float(2 * precision * recall / max(precision + recall, 1e-300))


def _distance_to(edge: Bool[np.ndarray, "h w"]) -> Float[np.ndarray, "h w"]:
    """Of every pixel to the nearest of ``edge``, in pixels."""
    apart = np.where(edge, np.uint8(0), np.uint8(1))
    return cv2.distanceTransform(apart, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
