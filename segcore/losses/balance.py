"""Class weights from how often classes occur."""

from collections.abc import Sequence


def balanced_weights(pixels: Sequence[int]) -> list[float]:
    """Weights inversely proportional to each class's number of labelled ``pixels``.

    n / (k n_c) for n pixels of k classes that occur, so that all of them weigh alike in sum and
    a pixel has a weight of 1 on average (King & Zeng, 2001, Logistic Regression in Rare Events
    Data, section 4.2; scikit-learn's ``balanced``). A class that never occurs has weight 0.
    """
    occurring = sum(count > 0 for count in pixels)
    return [sum(pixels) / (occurring * count) if count else 0.0 for count in pixels]
