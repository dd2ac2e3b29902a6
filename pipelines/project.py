"""Where everything lies, said once: the folders of a project and of its rows."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from segcore.errors import InputError
from segcore.files import read_json
from segcore.params import Params, read_params
from segcore.row import Run
from segcore.tables import DatasetTable, Options

if TYPE_CHECKING:
    from segcore.datasets import Dataset


@dataclass(frozen=True)
class Project:
    """A folder with a table of rows, ``params.yaml`` unless another is named."""

    root: Path
    table: Path

    @cached_property
    def params(self) -> Params:
        return read_params(self.table)

    def row(self, key: str, tuned: Options | None = None) -> Run:
        return self.params.resolve(key, tuned)

    def tuned_row(self, key: str) -> Run:
        """The row with what its search found. Raises InputError where *tune* has not run."""
        self.row(key)  # first, since an unknown row has no file either
        return self.row(key, self.tuned_values(key))

    def tuned_values(self, key: str) -> Options:
        return read_json(self.run(key) / "search.json")["best"]

    def trained(self, key: str, other: str) -> Path:
        """The model folder of the row whose weights ``key`` takes. Raises InputError without."""
        folder = self.run(other)
        if not (folder / "registered.json").exists():
            raise InputError(
                f"row {key} takes the weights of {other}, which is not trained yet; "
                f"run: dvc repro train@{other}"
            )
        return folder

    def dataset(self, name: str) -> tuple["Dataset", DatasetTable]:
        """Raises InputError where the table has no such dataset or it cannot be built."""
        from segcore.datasets import build_dataset  # not above: it loads torch

        table = self.params.dataset(name)
        return build_dataset(table.form or name, table.options), table

    def raw(self, dataset: str) -> Path:
        return self.root / "data" / "raw" / dataset

    def drop(self, dataset: str) -> Path:
        """Where a person puts what cannot be fetched."""
        named = self.params.dataset(dataset).drop
        return self.root / (named or f"data/drop/{dataset}")

    def shards(self, dataset: str) -> Path:
        return self.root / "data" / "shards" / dataset

    def run(self, row: str) -> Path:
        """The outputs of a row's stages."""
        return self.root / "runs" / row

    @property
    def work(self) -> Path:
        """What is on its way; neither git nor DVC knows it."""
        return self.root / "work"

    @property
    def reports(self) -> Path:
        return self.root / "reports"

    def require_shards(self, dataset: str) -> str:
        """The prepared dataset's address. Raises InputError where it was not prepared."""
        if address := self.params.dataset(dataset).shards:
            return address
        folder = self.shards(dataset)
        if not (folder / "manifest.json").exists():
            raise InputError(f"{folder} is not prepared; run: dvc repro prepare@{dataset}")
        return str(folder)
