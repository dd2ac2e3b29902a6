"""``params.yaml``: values there, meaning here.

One rule decides every value of a row: tuned > row > dataset's recipe > defaults.
"""

from pathlib import Path
from typing import Annotated, Any, Literal

from annotated_types import Ge, Gt, Le, MinLen
from pydantic import BaseModel, ConfigDict, Discriminator, Tag, model_validator

from segcore.errors import InputError, suggestion, validated
from segcore.files import hash_of, read_yaml

Positive = Annotated[int, Gt(0)]
Share = Annotated[float, Ge(0), Le(1)]
Size = tuple[Positive, Positive]
Options = dict[str, Any]
FIXED = {"method", "backbone", "dataset", "search", "workers", "steps", "splits"}
"""What a search may not change."""


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


KINDS = {"choice", "uniform", "loguniform", "int"}


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
    rows: dict[str, Options] = {}
    _path: str = "params.yaml"

    def dataset(self, name: str) -> DatasetTable:
        if name not in self.datasets:
            raise InputError(f"{self._path}: no dataset {name!r}{suggestion(name, self.datasets)}")
        return self.datasets[name]

    def resolve(self, name: str, tuned: Options | None = None) -> Run:
        """The row ``name`` with every value filled in. Raises InputError on anything unknown."""
        if name not in self.rows:
            raise InputError(f"{self._path}: no row {name!r}{suggestion(name, self.rows)}")
        row, where = self.rows[name], f"{self._path}: rows.{name}"
        for key in ("method", "backbone", "dataset"):
            if key not in row:
                raise InputError(f"{where}: {key!r} is missing; a row always says it")
        dataset = str(row["dataset"])
        layers = {
            f"rows.{name}": row,
            f"datasets.{dataset}.recipe": self.dataset(dataset).recipe,
            "defaults": self.defaults,
        }
        values: Options = {}
        for layer in reversed(layers.values()):
            values = merged(values, layer)
        run = validated(Run, values, self._path, layers)
        if run.search:
            _check_space(run.search, row, values, where)
        return validated(Run, with_values(values, tuned), f"{where}, tuned") if tuned else run


def read_params(path: Path) -> Params:
    """Raises InputError where the file is missing, is no YAML, or says something unknown."""
    try:
        values = read_yaml(path)
    except FileNotFoundError:
        raise InputError(f"{path} is missing; --params names another table") from None
    if not isinstance(values, dict):
        found = "is empty" if values is None else f"holds a {type(values).__name__}"
        raise InputError(f"{path} {found}; a table with datasets, defaults and rows is expected")
    params = validated(Params, values, str(path))
    params._path = str(path)
    return params


def merged(below: Options, above: Options) -> Options:
    """``above`` over ``below``; tables within are merged key by key, but for what is drawn from."""
    result = dict(below)
    for key, value in above.items():
        inner = result.get(key)
        if isinstance(inner, dict) and isinstance(value, dict) and not KINDS & value.keys():
            value = merged(inner, value)
        result[key] = value
    return result


def with_values(values: Options, dotted: Options) -> Options:
    """``values`` with keys such as ``options.width`` replaced."""
    for key, value in dotted.items():
        for part in reversed(key.split(".")):
            value = {part: value}
        values = merged(values, value)
    return values


def _check_space(search: Search, row: Options, values: Options, where: str) -> None:
    for key, space in search.space.items():
        head = key.split(".")[0]
        if head not in Run.model_fields:
            known = set(Run.model_fields) - FIXED
            raise InputError(f"{where}: search.space has no key {key!r}{suggestion(head, known)}")
        if head in FIXED:
            raise InputError(f"{where}: {key!r} cannot be searched")
        if _says(row, key):
            raise InputError(f"{where}: {key!r} is set by the row and searched; remove one of them")
        for value in next(iter(space))[1]:
            validated(Run, with_values(values, {key: value}), f"{where}: search.space.{key}")


def _says(row: Any, key: str) -> bool:
    first, _, rest = key.partition(".")
    said = isinstance(row, dict) and first in row
    return said and (not rest or _says(row[first], rest))
