"""Which keywords a network or a pyramid has, and what is said about those it has not."""

from collections.abc import Callable, Iterable
from inspect import Parameter, signature
from typing import Any

from segcore.errors import InputError, suggestion


def keywords_of(build: Callable[..., Any]) -> list[str]:
    """The options of a constructor or function: the keywords that have a name of their own."""
    named = Parameter.KEYWORD_ONLY, Parameter.POSITIONAL_OR_KEYWORD
    return [each.name for each in signature(build).parameters.values() if each.kind in named]


def check_options(what: str, given: Iterable[str], known: Iterable[str]) -> None:
    """Raises InputError on the first of ``given`` that is not ``known``; ``what`` has them."""
    known = sorted(known)
    for option in given:
        if option not in known:
            raise InputError(f"{what} has no option {option!r}{suggestion(option, known)}")


def check_rates(option: str, rates: Any, count: int, unit: str) -> None:
    """Raises InputError unless ``rates`` are ``count`` positive whole numbers, one per ``unit``."""
    listed = isinstance(rates, list | tuple)
    if not listed or len(rates) != count or any(type(r) is not int or r < 1 for r in rates):
        raise InputError(
            f"{option} must be {count} positive whole numbers, one per {unit}, not {rates!r}"
        )
