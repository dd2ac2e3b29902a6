"""Edges of classes, against the authors' form class by class and against distances in a loop."""

from math import ceil, hypot

import cv2
import numpy as np
import pytest

from segcore import boundaries
from segcore.boundaries import boundary_counts, boundary_f, contour, near_edge
from segcore.types import IGNORE

SIZES = [(40, 56), (33, 21), (120, 90), (3, 5), (1, 1)]


def scene(size: tuple[int, int], seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Discs of four classes, the same a little moved, and void."""
    generator = np.random.default_rng(seed)
    rows, columns = np.indices(size)
    labels, found = np.zeros(size, np.uint8), np.zeros(size, np.uint8)
    for value in (1, 2, 3):
        top, left, radius = generator.integers([0, 0, 2], [*size, 5 + min(size) // 3])
        for into, by in ((labels, 0), (found, generator.integers(-3, 4))):
            into[(rows - top - by) ** 2 + (columns - left) ** 2 < radius**2] = value
    labels[:, : size[1] // 6] = IGNORE
    return labels, found


def authors_edge(mask: np.ndarray, distance: int) -> np.ndarray:
    """mask_to_boundary of the authors' code: eroded step by step inside a frame of zeros."""
    framed = cv2.copyMakeBorder(mask.astype(np.uint8), 1, 1, 1, 1, cv2.BORDER_CONSTANT, value=0)
    eroded = cv2.erode(framed, np.ones((3, 3), np.uint8), iterations=distance)[1:-1, 1:-1]
    return (mask.astype(np.uint8) - eroded).astype(bool)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("distance", [1, 2, 7])
def test_edges_of_all_classes_at_once(size, distance):
    labels, _ = scene(size, 1)
    found = near_edge(labels, distance)
    for value in (0, 1, 2, 3):
        mask = labels == value
        np.testing.assert_array_equal(found & mask, authors_edge(mask, distance))


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_boundary_counts_are_the_authors(size, seed):
    labels, found = scene(size, seed)
    distance = max(1, round(0.02 * hypot(*size)))
    known = labels != IGNORE
    expected = np.zeros((3, 5), int)
    for value in range(4):
        true = authors_edge((labels == value) & known, distance)
        guessed = authors_edge((found == value) & known, distance)
        expected[:, value] = true.sum(), guessed.sum(), (true & guessed).sum()
    np.testing.assert_array_equal(boundary_counts(labels, found, 5), expected)


def contour_slowly(mask: np.ndarray) -> set[tuple[int, int]]:
    height, width = mask.shape
    found = set[tuple[int, int]]()
    for row in range(height):
        for column in range(width):
            below, right = min(row + 1, height - 1), min(column + 1, width - 1)
            others = mask[row, right], mask[below, column], mask[below, right]
            if any(other != mask[row, column] for other in others):
                found.add((row, column))
    return found


def f_slowly(labels: np.ndarray, found: np.ndarray, value: int, most: int) -> float:
    known = labels != IGNORE
    true, guessed = (contour_slowly((each == value) & known) for each in (labels, found))
    if not true and not guessed:
        return float("nan")
    if not true or not guessed:
        return 0.0

    def near(of: set[tuple[int, int]], to: set[tuple[int, int]]) -> float:
        hits = [any(hypot(a - c, b - d) <= most for c, d in to) for a, b in of]
        return sum(hits) / len(hits)

    precision, recall = near(guessed, true), near(true, guessed)
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


@pytest.mark.parametrize("size", [(40, 56), (33, 21), (3, 5)])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_boundary_f_is_that_of_distances_one_by_one(size, seed):
    labels, found = scene(size, seed)
    most = ceil(0.008 * hypot(*size))
    expected = [f_slowly(labels, found, value, most) for value in range(5)]
    np.testing.assert_allclose(boundary_f(labels, found, 5), expected, rtol=1e-12)


@pytest.mark.parametrize("size", SIZES)
def test_boundary_f_looks_at_no_more_than_the_class_and_finds_the_same(size):
    for seed in range(20):
        labels, found = scene(size, seed)
        known = np.where(labels == IGNORE, labels, found)
        most = ceil(0.008 * hypot(*size))
        whole = [
            boundaries._f_measure(contour(labels == value), contour(known == value), most)
            for value in range(4)
        ]
        np.testing.assert_array_equal(boundary_f(labels, found, 4), whole)


def test_contours_by_hand():
    mask = np.zeros((4, 5), bool)
    mask[1:3, 1:3] = True
    drawn = "\n".join("".join("#" if each else "." for each in row) for row in contour(mask))
    assert drawn == "###..\n#.#..\n###..\n....."


def test_perfect_and_wholly_wrong():
    labels, _ = scene((60, 80), 3)
    counts, scores = boundary_counts(labels, labels, 5), boundary_f(labels, labels, 5)
    assert counts[0].sum() > 0
    np.testing.assert_array_equal(counts[0], counts[2])
    np.testing.assert_array_equal(counts[1], counts[2])
    assert set(scores[~np.isnan(scores)]) == {1.0}
    wrong = np.full_like(labels, 4)
    assert boundary_counts(labels, wrong, 5)[2].sum() == 0
    assert np.nanmax(boundary_f(labels, wrong, 5)) == 0


def test_a_better_edge_scores_more_where_the_area_hardly_changes():
    rows, columns = np.indices((200, 200))
    labels, exact, rough = (np.zeros((200, 200), np.uint8) for _ in range(3))
    labels[(rows - 100) ** 2 + (columns - 100) ** 2 < 80**2] = 1
    exact[(rows - 100) ** 2 + (columns - 101) ** 2 < 80**2] = 1
    rough[(rows - 100) ** 2 + (columns - 106) ** 2 < 80**2] = 1
    near, far = (boundary_f(labels, each, 2)[1] for each in (exact, rough))
    assert near == 1
    assert far < 0.6
