"""What a row's ``search:`` says: a space over keys of the row, how to search it, the budget."""

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal

from annotated_types import Ge, Gt, MinLen
from pydantic import Discriminator, Tag, model_serializer, model_validator

from segcore.tables import Options, Positive, Table, with_values

Hours = Annotated[float, Gt(0)]
PERTURBED = {"learning_rate", "weight_decay", "momentum", "flip", "photometric", "brightness"}
PERTURBED |= {"rotation", "max_class_share", "dice_weight", "lovasz_weight", "presence_weight"}
"""What may change between two steps of one training: nothing that shapes the network."""
TRIALS, TRIALS_WITHIN_HOURS = 6, 1000
BUDGET = {"trials", "hours", "cpu_hours", "gpu_hours", "concurrent", "seeds"}
"""Keys that may change without making a search another one."""


class Drawn(Table):
    when: Annotated[Options, MinLen(1)] | None = None
    """Searched keys with the value, or the list of values, that each must have for this key to be
    drawn; where one has another, the trial keeps what the row says."""

    @model_serializer(mode="wrap")
    def _short(self, plain: Any) -> dict[str, Any]:
        return {name: value for name, value in plain(self).items() if value is not None}

    @property
    def spread(self) -> Any:
        """The choices, or the two ends."""
        return next(value for name, value in self if name != "when")

    def applies(self, values: Mapping[str, Any]) -> bool:
        """Whether the key is drawn in a trial that has these values of the keys before it."""
        wanted = (self.when or {}).items()
        return all(key in values and values[key] in _listed(of) for key, of in wanted)


class Choice(Drawn):
    choice: Annotated[list[Any], MinLen(1)]


class Uniform(Drawn):
    uniform: tuple[float, float]


class LogUniform(Drawn):
    loguniform: tuple[Annotated[float, Gt(0)], Annotated[float, Gt(0)]]


class Int(Drawn):
    int: tuple[int, int]


def _kind(value: Any) -> str:
    keys = list(value) if isinstance(value, dict) else getattr(value, "model_fields_set", ())
    kinds = [key for key in keys if key != "when"]
    return str(*kinds) if len(kinds) == 1 else ""


Space = Annotated[
    Annotated[Choice, Tag("choice")]
    | Annotated[Uniform, Tag("uniform")]
    | Annotated[LogUniform, Tag("loguniform")]
    | Annotated[Int, Tag("int")],
    Discriminator(_kind),
]


class Search(Table):
    """What ``tune`` tries: a space over keys of the row, a way through it, a budget."""

    space: Annotated[dict[str, Space], MinLen(1)]
    algorithm: Literal["asha", "tpe", "random", "grid", "pbt"] = "asha"
    """``asha``: values by Optuna's TPE, the better trials trained further; ``tpe``, ``random``,
    ``grid``: every trial runs to its end; ``pbt``: all trials are one population, whose worst
    go on from checkpoints of the best with values near theirs."""
    trials: Positive | None = None
    """Six unless given; for a grid all of it; where hours are given, as many as they allow, but
    for a population, whose members train in rounds: six."""
    hours: Hours | None = None
    """Of the clock, until no trial starts and every one ends at its next evaluation."""
    cpu_hours: Hours | None = None
    """The same, of all CPU cores that trials hold."""
    gpu_hours: Hours | None = None
    steps: Positive
    """The steps of a trial that trains to its end."""
    evaluate_every: Positive
    grace: Positive
    """Steps of every trial before the best go on; in a population, between two changes. A multiple
    of ``evaluate_every`` or all of ``steps``."""
    reduction: Annotated[int, Gt(1)] = 2
    """The best 1/``reduction`` go on, to as many times the steps."""
    concurrent: Positive | None = None
    """Trials side by side, as many as the cluster holds unless given. With more than one a search
    cannot be repeated exactly."""
    workers: Positive = 1
    """Of one trial. Trials of one worker start in less than a second, others in about twenty."""
    latency: bool = False
    """Trials are also measured: the search is for the best mIoU at every latency."""
    most_latency_ms: Annotated[float, Gt(0)] | None = None
    """The best trial is the one of highest mIoU among those that are as fast as this."""
    seeds: Annotated[int, Ge(0)] = 0
    """The best values are trained with so many seeds more, to say how sure their score is."""

    @property
    def most_trials(self) -> int:
        """How many trials there are at most."""
        hours = self.hours or self.cpu_hours or self.gpu_hours
        if self.algorithm == "grid":
            size = sum(1 for _ in grid(self.space))
            return min(size, self.trials or size)
        unbounded = hours and self.algorithm != "pbt"
        return self.trials or (TRIALS_WITHIN_HOURS if unbounded else TRIALS)

    @model_validator(mode="after")
    def _consistent(self) -> "Search":
        if self.grace > self.steps:
            raise ValueError(f"grace {self.grace} is more than the {self.steps} steps of a trial")
        if self.seeds == 1:
            raise ValueError("seeds 1 would say nothing about the spread; give at least 2")
        if self.most_latency_ms and not self.latency:
            raise ValueError("most_latency_ms needs latency: true, which measures the trials")
        if self.latency and self.algorithm in ("asha", "pbt"):
            raise ValueError(
                f"latency does not go with {self.algorithm}, which sorts trials out by mIoU alone; "
                "set algorithm to tpe, random or grid"
            )
        evaluated = self.grace % self.evaluate_every == 0 or self.grace == self.steps
        if self.algorithm in ("asha", "pbt") and not evaluated:
            every = self.evaluate_every
            raise ValueError(f"grace {self.grace} is no multiple of evaluate_every {every}")
        for number, (key, space) in enumerate(self.space.items()):
            self._check(key, space, list(self.space)[:number])
        return self

    def _check(self, key: str, space: Space, above: list[str]) -> None:
        continuous = isinstance(space, Uniform | LogUniform)
        if not isinstance(space, Choice) and space.spread[0] >= space.spread[1]:
            raise ValueError(f"space.{key} {list(space.spread)} must run from low to high")
        if self.algorithm == "grid" and continuous:
            raise ValueError(f"space.{key}: a grid has choice and int only; list its values")
        if self.algorithm == "pbt" and (key not in PERTURBED or space.when):
            known = ", ".join(sorted(PERTURBED))
            raise ValueError(f"space.{key} cannot change within a training; pbt takes {known}")
        for other, wanted in (space.when or {}).items():
            if other not in above:
                raise ValueError(f"space.{key}.when: {other!r} must be searched, above {key!r}")
            parent = self.space[other]
            if isinstance(parent, Choice):
                for value in _listed(wanted):
                    if value not in parent.choice:
                        raise ValueError(
                            f"space.{key}.when: {other} is never {value!r}, "
                            f"only one of {parent.choice}"
                        )
            else:
                raise ValueError(f"space.{key}.when: {other!r} must be a choice")


def under_seeds(search: Search, first: int) -> Search:
    """The search that trains one setting with ``search.seeds`` seeds, each to the end.

    The first one, under which the setting was found to be the best, is not among them.
    """
    plan = {"steps", "evaluate_every", "grace", "concurrent", "workers"}
    seeds = {"seed": {"choice": [first + number for number in range(1, search.seeds + 1)]}}
    return Search.model_validate(
        {**search.model_dump(include=plan), "space": seeds, "algorithm": "grid"}
    )


def as_trial(row: Options, search: Search, best: Options) -> Options:
    """The values of a row, all or those that it says, with a trial's length and ``best``."""
    plan = {
        "steps": search.steps,
        "evaluate_every": search.evaluate_every,
        "save_every": search.evaluate_every,
        "workers": search.workers,
        "search": None,
    }
    return with_values({**row, **plan}, best)


def grid(space: Mapping[str, Space]) -> Iterator[Options]:
    """Every combination of a space of choices and integers, the last key changing fastest."""
    yield from _combinations(list(space.items()), {})


def _combinations(left: list[tuple[str, Space]], values: Options) -> Iterator[Options]:
    if not left:
        yield values
        return
    (key, space), *others = left
    if not space.applies(values):
        yield from _combinations(others, values)
        return
    low, high = space.spread if isinstance(space, Int) else (0, -1)
    for value in space.spread if isinstance(space, Choice) else range(low, high + 1):
        yield from _combinations(others, {**values, key: value})


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]
