"""What is said to the person who caused it: which thing, which value, what would work."""

from collections.abc import Iterable
from difflib import get_close_matches


class InputError(ValueError):
    """Something a person gave cannot be used. The message names it and the remedy."""


def suggestion(name: str, known: Iterable[str]) -> str:
    """``; did you mean 'x'?`` where one of ``known`` resembles ``name``, else the whole list."""
    known = sorted(known)
    if close := get_close_matches(name, known, n=1, cutoff=0.6):
        return f"; did you mean {close[0]!r}?"
    return f"; there is {', '.join(known)}" if known else ""
