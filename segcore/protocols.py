"""How images are looked at, in words: what a score has to say beside its number."""

from collections.abc import Sequence
from typing import Any

from segcore.row import Run
from segcore.tables import TestTime

__all__ = ["as_seen", "in_words", "looked_at"]


def looked_at(run: Run) -> dict[str, str]:
    """Each of a row's ``looks`` in words, as ``scores.json`` keeps them."""
    return {name: in_words(how) for name, how in run.looks.items()}


def in_words(how: TestTime) -> str:
    """Such as ``whole``, ``short side 520``, ``480x480 windows every 320x320`` or
    ``6 scales of 0.5 to 1.75 + flip``."""
    said = list[str]()
    if isinstance(how.resize, int):
        said.append(f"short side {how.resize}")
    elif how.resize:
        said.append(f"stretched to {_size(how.resize)}")
    if how.crop:
        said.append(f"its middle {_size(how.crop)}")
    if how.window and how.stride:
        said.append(f"{_size(how.window)} windows every {_size(how.stride)}")
    if len(how.scales) > 1:
        low, high = min(how.scales), max(how.scales)
        said.append(f"{len(how.scales)} scales of {low:g} to {high:g}")
    elif how.scales != (1.0,):
        said.append(f"scale {min(how.scales):g}")
    return (", ".join(said) or "whole") + (" + flip" if how.flip else "")


def as_seen(words: str, result: dict[str, Any]) -> str:
    """The words, and of how many images of a split they are not true: memory was short for them."""
    others = result.get("seen_in_other_windows")
    return f"{words}, but for {others} in other windows" if others else words


def _size(size: Sequence[int]) -> str:
    return "x".join(map(str, size))
