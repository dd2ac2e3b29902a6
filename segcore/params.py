"""``params.yaml``: values there, meaning here.

One rule decides every value of a row: tuned > row > dataset's recipe > defaults.
"""

from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import yaml
from annotated_types import Ge, Gt, Le, MinLen
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from segcore.errors import InputError, suggestion
from segcore.files import hash_of

Positive = Annotated[int, Gt(0)]
Share = Annotated[float, Ge(0), Le(1)]
Size = tuple[Positive, Positive]
Options = dict[str, Any]
T = TypeVar("T", bound=BaseModel)


class Table(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class DatasetTable(Table):
    """Where the images of one dataset come from, and what its rows do unless they say else."""

    form: str | None = None
    """The dataset file that reads it; the table's own key unless given (``folder``: your own)."""
    options: Options = {}
    drop: str | None = None
    """The drop folder; ``data/drop/<dataset>`` unless given."""
    images_per_shard: Positive = 256
    recipe: Options = {}


class Choice(Table):
    choice: Annotated[list[Any], MinLen(1)]


class Uniform(Table):
    uniform: tuple[float, float]


class LogUniform(Table):
    loguniform: tuple[Annotated[float, Gt(0)], Annotated[float, Gt(0)]]


class Int(Table):
    int: tuple[int, int]


class Search(Table):
    """What ``tune`` tries: a space over keys of the row, a budget, a seed."""

    space: Annotated[dict[str, Choice | Uniform | LogUniform | Int], MinLen(1)]
    trials: Positive = 6
    steps: Positive
    """The steps of a trial that is never stopped."""
    evaluate_every: Positive
    grace: Positive
    """Steps before a trial may be stopped."""
    reduction: Annotated[int, Gt(1)] = 2
    concurrent: Positive = 1
    """Trials side by side; with more than one a search cannot be repeated exactly."""


class Run(Table):
    """A row with every value resolved: all that training, evaluation and benchmark need."""

    method: str
    backbone: str
    dataset: str
    options: Options = {}
    backbone_options: Options = {}
    output_stride: Positive | None = None
    pretrained: bool = False
    auxiliary: bool = True

    steps: Positive
    batch_size: Positive
    """Images per step over all workers: the unit of a recipe."""
    micro_batch: Positive | None = None
    """The most images a worker takes through the network at once; the rest accumulates."""
    crop: Size
    scale: tuple[Annotated[float, Gt(0)], Annotated[float, Gt(0)]] = (0.5, 2.0)
    flip: Share = 0.5
    max_class_share: Annotated[float, Gt(0), Le(1)] = 0.75
    photometric: bool = True

    optimizer: Literal["sgd", "adamw"] = "sgd"
    learning_rate: Annotated[float, Gt(0)] = 0.01
    momentum: Share = 0.9
    weight_decay: Annotated[float, Ge(0)] = 5e-4
    head_multiplier: Annotated[float, Gt(0)] = 1.0
    schedule: Literal["poly", "cosine", "constant"] = "poly"
    power: Annotated[float, Gt(0)] = 0.9
    min_learning_rate: Annotated[float, Ge(0)] = 0.0
    warmup_steps: Annotated[int, Ge(0)] = 0

    loss: Literal["cross_entropy", "ohem"] = "cross_entropy"
    loss_options: Options = {}
    auxiliary_weight: Annotated[float, Ge(0)] = 0.4

    evaluate_every: Positive
    save_every: Positive
    workers: Positive = 1
    device: Literal["auto", "cpu", "cuda"] = "auto"
    threads: Positive = 1
    """CPU cores, and torch threads, of a worker."""
    loader_workers: Annotated[int, Ge(0)] = 0
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    sync_batchnorm: bool = True
    channels_last: bool = True
    compile: bool = False
    seed: Annotated[int, Ge(0)] = 0
    splits: Annotated[tuple[str, ...], MinLen(1)] = ("val",)
    """The splits that ``evaluate`` scores; the first one decides."""
    benchmark_size: Size | None = None
    """Height and width that ``benchmark`` measures at; the crop unless given."""
    search: Search | None = None

    @model_validator(mode="after")
    def _consistent(self) -> "Run":
        if self.workers > self.batch_size:
            raise ValueError(f"batch_size {self.batch_size} is less than {self.workers} workers")
        if self.scale[0] > self.scale[1]:
            raise ValueError(f"scale {self.scale} runs backwards")
        return self

    def fingerprint(self) -> str:
        """Names the configuration in run names, so that no state leaks into another one."""
        return hash_of(self.model_dump(mode="json", exclude={"search"}))


class Params(Table):
    datasets: dict[str, DatasetTable]
    defaults: Options = {}
    rows: dict[str, Options] = Field(default_factory=dict)

    def dataset(self, name: str) -> DatasetTable:
        if name not in self.datasets:
            raise InputError(f"params.yaml: no dataset {name!r}{suggestion(name, self.datasets)}")
        return self.datasets[name]

    def resolve(self, name: str, tuned: Options | None = None) -> Run:
        """The row ``name`` with every value filled in. Raises InputError on anything unknown."""
        if name not in self.rows:
            raise InputError(f"params.yaml: no row {name!r}{suggestion(name, self.rows)}")
        row = self.rows[name]
        where = f"params.yaml: rows.{name}"
        for key in ("method", "backbone", "dataset"):
            if key not in row:
                raise InputError(f"{where}: {key!r} is missing; a row always says it")
        recipe = self.dataset(str(row["dataset"])).recipe
        values = merged(merged(self.defaults, recipe), row)
        run = validated(Run, values, where)
        if run.search:
            _refuse_search_of_own_keys(run.search, row, where)
            _refuse_unknown_space(run.search, values, where)
        return validated(Run, with_values(values, tuned), where) if tuned else run


def read_params(path: Path) -> Params:
    """Raises InputError where the file is missing, is no YAML, or says something unknown."""
    try:
        values = yaml.safe_load(path.read_text())
    except FileNotFoundError:
        raise InputError(f"{path} is missing; --params names another table") from None
    except yaml.YAMLError as error:
        raise InputError(f"{path} is not valid YAML: {error}") from None
    return validated(Params, values or {}, str(path))


def merged(below: Options, above: Options) -> Options:
    """``above`` over ``below``; tables within are merged key by key."""
    result = dict(below)
    for key, value in above.items():
        inner = result.get(key)
        both_tables = isinstance(inner, dict) and isinstance(value, dict)
        result[key] = merged(inner, value) if both_tables else value
    return result


def with_values(values: Options, dotted: Options) -> Options:
    """``values`` with keys such as ``options.width`` replaced."""
    for key, value in dotted.items():
        for part in reversed(key.split(".")):
            value = {part: value}
        values = merged(values, value)
    return values


def validated(model: type[T], values: Any, where: str) -> T:
    try:
        return model.model_validate(values)
    except ValidationError as error:
        problems = "; ".join(_problem(model, item) for item in error.errors())
        raise InputError(f"{where}: {problems}") from None


def _problem(model: type[BaseModel], item: Any) -> str:
    place = ".".join(str(part) for part in item["loc"])
    if item["type"] == "extra_forbidden":
        known = _fields_at(model, item["loc"][:-1])
        return f"unknown key {place!r}{suggestion(str(item['loc'][-1]), known)}"
    if item["type"] == "missing":
        return f"{place!r} is missing"
    return f"{place or 'row'}: {item['msg']} (got {item['input']!r})"


def _fields_at(model: type[BaseModel], path: tuple[Any, ...]) -> list[str]:
    tables = {"datasets": DatasetTable, "search": Search}
    for part in path:
        model = tables.get(part, model)
    return list(model.model_fields)


def _refuse_search_of_own_keys(search: Search, row: Options, where: str) -> None:
    for key in search.space:
        inner: Any = row
        for part in key.split("."):
            inner = inner.get(part) if isinstance(inner, dict) else None
        if inner is not None:
            raise InputError(f"{where}: {key!r} is set by the row and searched; remove one of them")


def _refuse_unknown_space(search: Search, values: Options, where: str) -> None:
    fixed = {"method", "backbone", "dataset", "search", "workers", "steps", "splits"}
    for key in search.space:
        head = key.split(".")[0]
        if head not in Run.model_fields:
            known = set(Run.model_fields) - fixed
            raise InputError(f"{where}: search.space has no key {key!r}{suggestion(head, known)}")
        if head in fixed:
            raise InputError(f"{where}: {key!r} cannot be searched")
