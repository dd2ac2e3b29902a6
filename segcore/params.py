"""``params.yaml``: values there, meaning here.

One rule decides every value of a row: tuned > row > dataset's recipe > defaults.
"""

from pathlib import Path
from typing import Any

from pydantic import Field

from segcore.errors import InputError, suggestion, validated
from segcore.files import read_yaml
from segcore.row import Run
from segcore.search import Search
from segcore.tables import (
    DatasetTable,
    Options,
    Refinement,
    StorageTable,
    Table,
    merged,
    with_values,
)

NAMES = ("method", "backbone", "dataset")
"""What a row always says itself."""
LINKS = {"init", "weights_of"}
"""What only a row may say: another row, whose weights it needs."""
LOOKS = {"test_time", "protocols"}
"""How images are looked at: what such a row says of it stands for all that the trained row says."""
PROTOCOL = {*NAMES, *LOOKS, "weights_of", "splits", "benchmark_size", "published"}
PROTOCOL |= {"device", "threads", "workers"}
"""What a row without a training of its own may say."""
OWN = {"init", "search", "published"}
"""What such a row does not take over from the row that was trained."""
FIXED = {*NAMES, "search", "workers", "steps", "splits", "test_time", "weights_of", "init"}
FIXED |= {"protocols", "published"}
"""What a search may not change."""


class Params(Table):
    shared: Options = Field(default_factory=dict)
    """What rows take over by YAML's ``<<``; nothing else reads it."""
    datasets: dict[str, DatasetTable]
    storage: StorageTable | None = None
    defaults: Options = Field(default_factory=dict)
    rows: dict[str, Options] = Field(default_factory=dict)
    refinements: dict[str, Refinement] = Field(default_factory=dict)
    """By the row whose labels are corrected."""
    _path: str = "params.yaml"

    def dataset(self, name: str) -> DatasetTable:
        if name not in self.datasets:
            raise InputError(f"{self._path}: no dataset {name!r}{suggestion(name, self.datasets)}")
        return self.datasets[name]

    def refinement(self, name: str) -> Refinement:
        """How the labels of the row ``name`` are corrected. Raises InputError where it is not said
        or names what is no row of SegFix."""
        where = f"{self._path}: refinements"
        if name not in self.refinements:
            raise InputError(f"{where}: no {name!r}{suggestion(name, self.refinements)}")
        for row in (name, by := self.refinements[name].by):
            if row not in self.rows:
                raise InputError(f"{where}.{name}: no row {row!r}{suggestion(row, self.rows)}")
        if self.rows[by].get("method") != "segfix":
            raise InputError(f"{where}.{name}: by: {by!r} is no row of method segfix")
        return self.refinements[name]

    def resolve(self, name: str, tuned: Options | None = None) -> Run:
        """The row ``name`` with every value filled in. Raises InputError on anything unknown."""
        if name not in self.rows:
            raise InputError(f"{self._path}: no row {name!r}{suggestion(name, self.rows)}")
        row, where = self.rows[name], f"{self._path}: rows.{name}"
        for key in NAMES:
            if key not in row:
                raise InputError(f"{where}: {key!r} is missing; a row always says it")
        self._check_links(name, where)
        layers = self._layers(name, row)
        values: Options = {}
        for layer in reversed(layers.values()):
            values = merged(values, layer)
        run = validated(Run, values, self._path, layers)
        if run.search and run.init:
            raise InputError(
                f"{where}: a search has no place beside init: its trials would run before "
                f"{run.init} is trained; search without init, then write the best values here"
            )
        if run.search:
            _check_space(run.search, row, values, where)
        return validated(Run, with_values(values, tuned), f"{where}, tuned") if tuned else run

    def _layers(self, name: str, row: Options) -> dict[str, Options]:
        """The tables that a row's values come from, the uppermost first."""
        dataset = str(row["dataset"])
        shared = {
            f"datasets.{dataset}.recipe": self.dataset(dataset).recipe,
            "defaults": self.defaults,
        }
        for place, layer in shared.items():
            if said := LINKS & layer.keys():
                raise InputError(f"{self._path}: {place} says {min(said)!r}; only a row may")
        trained = row.get("weights_of")
        if trained is None:
            return {f"rows.{name}": row, **shared}
        replaced = OWN | (LOOKS & row.keys())
        taken = {key: each for key, each in self.rows[trained].items() if key not in replaced}
        return {f"rows.{name}": {**row, "search": None}, f"rows.{trained}": taken, **shared}

    def _check_links(self, name: str, where: str) -> None:
        """The rows that a row stands on: there, above it, and fit for it."""
        row, above = self.rows[name], list(self.rows)[: list(self.rows).index(name)]
        for key in LINKS & {key for key, value in row.items() if value is not None}:
            other = str(row[key])
            if other not in self.rows:
                raise InputError(f"{where}: {key}: no row {other!r}{suggestion(other, self.rows)}")
            if other not in above:
                raise InputError(
                    f"{where}: {key}: {other!r} must stand above it, since it is trained before"
                )
            if remedy := self.rows[other].get("weights_of"):
                raise InputError(
                    f"{where}: {key}: {other!r} has no training of its own; name {remedy!r}"
                )
            if key == "weights_of":
                _check_protocol(row, self.rows[other], where)


def _check_protocol(row: Options, trained: Options, where: str) -> None:
    """Raises InputError where a row says of another's network what only a training could change."""
    for key in row:
        if key not in PROTOCOL and key in Run.model_fields:
            raise InputError(f"{where}: {key!r} says nothing beside weights_of; remove one of them")
    for key in NAMES:
        if row[key] != trained.get(key):
            raise InputError(
                f"{where}: {key} {row[key]!r} is not that of {row['weights_of']}, "
                f"{trained.get(key)!r}"
            )


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
        for value in space.spread:
            validated(Run, with_values(values, {key: value}), f"{where}: search.space.{key}")


def _says(row: Any, key: str) -> bool:
    first, _, rest = key.partition(".")
    said = isinstance(row, dict) and first in row
    return said and (not rest or _says(row[first], rest))
