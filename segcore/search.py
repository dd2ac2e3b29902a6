"""What a row's ``search:`` says: a space over keys of the row, and what may be spent on it."""

from typing import Annotated, Any

from annotated_types import Gt, MinLen
from pydantic import Discriminator, Tag, model_validator

from segcore.tables import Positive, Table


class Choice(Table):
    choice: Annotated[list[Any], MinLen(1)]


class Uniform(Table):
    uniform: tuple[float, float]


class LogUniform(Table):
    loguniform: tuple[Annotated[float, Gt(0)], Annotated[float, Gt(0)]]


class Int(Table):
    int: tuple[int, int]


def _kind(value: Any) -> str:
    keys = list(value) if isinstance(value, dict) else getattr(value, "model_fields_set", ())
    return str(*keys) if len(keys) == 1 else ""


Space = Annotated[
    Annotated[Choice, Tag("choice")]
    | Annotated[Uniform, Tag("uniform")]
    | Annotated[LogUniform, Tag("loguniform")]
    | Annotated[Int, Tag("int")],
    Discriminator(_kind),
]


class Search(Table):
    """What ``tune`` tries: a space over keys of the row, a budget, a seed."""

    space: Annotated[dict[str, Space], MinLen(1)]
    trials: Positive = 6
    steps: Positive
    """The steps of a trial that is never stopped."""
    evaluate_every: Positive
    grace: Positive
    """Steps before a trial may be stopped."""
    reduction: Annotated[int, Gt(1)] = 2
    concurrent: Positive = 1
    """Trials side by side; with more than one a search cannot be repeated exactly."""

    @model_validator(mode="after")
    def _consistent(self) -> "Search":
        if self.grace > self.steps:
            raise ValueError(f"grace {self.grace} is more than the {self.steps} steps of a trial")
        for key, space in self.space.items():
            _, ends = next(iter(space))
            if not isinstance(space, Choice) and ends[0] >= ends[1]:
                raise ValueError(f"space.{key} {list(ends)} must run from low to high")
        return self
