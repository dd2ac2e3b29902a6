"""What is said to the person who caused it: which thing, which value, what would work."""

from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ValidationError

T = TypeVar("T", bound=BaseModel)


class InputError(ValueError):
    """Something a person gave cannot be used. The message names it and the remedy."""


SHOWN = 100
"""Of a list of problems."""


def in_one_list(head: str, problems: Sequence[str]) -> str:
    """``head`` and below it every problem, a line each, the first ``SHOWN`` of them."""
    lines = [head, *problems[:SHOWN]]
    if more := len(problems[SHOWN:]):
        lines.append(f"... and {more} more")
    return "\n  ".join(lines)


def suggestion(name: str, known: Iterable[str]) -> str:
    """``; did you mean 'x'?`` where one of ``known`` resembles ``name``, else the whole list."""
    known = sorted(known)
    if close := get_close_matches(name, known, n=1, cutoff=0.6):
        return f"; did you mean {close[0]!r}?"
    return f"; there is {', '.join(known)}" if known else ""


def validated(
    model: type[T], values: Any, where: str, layers: dict[str, dict[str, Any]] | None = None
) -> T:
    """``values`` as ``model``. Raises InputError that names every problem.

    ``layers``, the uppermost first, are the tables that ``values`` was merged from.
    """
    try:
        return model.model_validate(values)
    except ValidationError as error:
        problems = "; ".join(_problem(model, item, layers or {}) for item in error.errors())
        raise InputError(f"{where}: {problems}") from None


def _problem(model: type[BaseModel], item: Any, layers: dict[str, dict[str, Any]]) -> str:
    path, given = item["loc"], item["input"]
    homes = [name for name, layer in layers.items() if path and path[0] in layer]
    place = ".".join(map(str, [*list(homes or layers)[:1], *path]))
    match item["type"]:
        case "extra_forbidden":
            return f"unknown key {place!r}{suggestion(str(path[-1]), _fields_at(model, path[:-1]))}"
        case "union_tag_invalid":
            known = [tag.strip("' ") for tag in item["ctx"]["expected_tags"].split(",")]
            return f"{place}: {given!r} fits no form{suggestion(item['ctx']['tag'], known)}"
        case "missing" if not isinstance(path[-1], int):
            return f"{place!r} is missing"
        case "value_error":
            return ": ".join(filter(None, [place, str(item["ctx"]["error"])]))
    if given is None:
        return f"{place} is empty; give it a value, or remove it"
    return f"{place}: {item['msg']} (got {given!r})"


def _fields_at(model: type[BaseModel], path: tuple[Any, ...]) -> list[str]:
    """The keys of the table that ``path`` leads to; keys of a dictionary lead nowhere."""
    for part in path:
        if part in model.model_fields:
            model = _table_in(model.model_fields[part].annotation) or model
    return list(model.model_fields)


def _table_in(annotation: Any) -> type[BaseModel] | None:
    inner = [annotation, *map(_table_in, get_args(annotation))]
    return next((a for a in inner if isinstance(a, type) and issubclass(a, BaseModel)), None)
