"""Parquet shards: what ``prepare`` writes and everything downstream reads.

One row is one sample: ``id``, ``image`` (the file's own encoded bytes), ``labels`` (raw uint8
train ids, row by row, under zstd), ``height``, ``width``. The class table stands in the file's
metadata and in ``manifest.json``, so nothing downstream needs to know the dataset.
"""

import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor
from torchvision.io import ImageReadMode, decode_image

from segcore.errors import InputError, suggestion
from segcore.files import written_whole
from segcore.types import ClassTable, Sample

MANIFEST = "manifest.json"
ROW_GROUP_BYTES = 1 << 20
"""Random access reads a whole row group, so groups are small; one sample may exceed it."""

SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("image", pa.binary()),
        ("labels", pa.binary()),
        ("height", pa.int32()),
        ("width", pa.int32()),
    ]
)


class Record(NamedTuple):
    """A row of a shard, as it is stored."""

    id: str
    image: bytes
    labels: bytes
    height: int
    width: int


def write_shard(path: Path, records: Iterable[Record], classes: ClassTable) -> int:
    """Writes the records and returns their number. Same records, same bytes."""
    schema = SCHEMA.with_metadata(
        {"segcore": json.dumps({"format": 1, "classes": asdict(classes)})}
    )
    compression = dict.fromkeys(SCHEMA.names, "none") | {"labels": "zstd"}
    rows = 0
    with (
        written_whole(path) as aside,
        pq.ParquetWriter(
            aside, schema, compression=compression, use_dictionary=False, write_statistics=False
        ) as writer,
    ):
        for group in _row_groups(records):
            columns = zip(*group, strict=True)
            arrays = [pa.array(c, f.type) for c, f in zip(columns, schema, strict=True)]
            writer.write_table(
                pa.Table.from_arrays(arrays, schema=schema), row_group_size=len(group)
            )
            rows += len(group)
    return rows


def _row_groups(records: Iterable[Record]) -> Iterator[list[Record]]:
    group, size = list[Record](), 0
    for record in records:
        group.append(record)
        size += len(record.image) + len(record.labels)
        if size >= ROW_GROUP_BYTES:
            yield group
            group, size = [], 0
    if group:
        yield group


@dataclass(frozen=True)
class Manifest:
    """What a prepared dataset holds; ``data_hash`` names its content."""

    dataset: str
    data_hash: str
    classes: ClassTable
    splits: dict[str, Any]

    @classmethod
    def read(cls, folder: str) -> "Manifest":
        """Raises InputError where the folder holds no prepared dataset."""
        place = f"{folder.rstrip('/')}/{MANIFEST}"
        try:
            with fsspec.open(place, "r") as file:
                values = json.load(file)
        except FileNotFoundError:
            raise InputError(
                f"{place} is missing; run the stage `prepare` of this dataset"
            ) from None
        except json.JSONDecodeError:
            raise InputError(f"{place} is not whole; run the stage `prepare` again") from None
        names, colours, mirror = (values["classes"][key] for key in ("names", "colours", "mirror"))
        table = ClassTable(tuple(names), tuple(map(tuple, colours)), tuple(mirror))
        return cls(values["dataset"], values["data_hash"], table, values["splits"])

    def split(self, name: str) -> dict[str, Any]:
        if name not in self.splits:
            raise InputError(
                f"dataset {self.dataset} has no split {name!r}{suggestion(name, self.splits)}"
            )
        return self.splits[name]


class ShardReader:
    """The samples of a split, by index, in the order of preparation.

    ``folder`` is a local path or any address that fsspec knows. Files are opened at first use,
    in the process that uses them, so a reader may be sent to loader workers.
    """

    def __init__(self, folder: str, split: str) -> None:
        self.folder = folder.rstrip("/")
        shards = Manifest.read(folder).split(split)["shards"]
        self.names = [shard["name"] for shard in shards]
        self.ends = np.cumsum([shard["rows"] for shard in shards], dtype=np.int64)

    def __len__(self) -> int:
        return int(self.ends[-1]) if len(self.ends) else 0

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in vars(self).items() if key != "_files"}

    def __getitem__(self, index: int) -> Sample:
        if not 0 <= index < len(self):
            raise IndexError(index)
        shard = int(np.searchsorted(self.ends, index, side="right"))
        row = index - (int(self.ends[shard - 1]) if shard else 0)
        return self._file(shard).sample(row)

    @cached_property
    def _files(self) -> dict[int, "_OpenShard"]:
        return {}

    def _file(self, shard: int) -> "_OpenShard":
        if shard not in self._files:
            self._files[shard] = _OpenShard(f"{self.folder}/{self.names[shard]}")
        return self._files[shard]


class _OpenShard:
    def __init__(self, place: str) -> None:
        filesystem, path = fsspec.core.url_to_fs(place)
        local = "file" in filesystem.protocol
        try:
            self.file = pq.ParquetFile(path if local else filesystem.open(path), memory_map=local)
        except (OSError, pa.ArrowInvalid) as error:
            remedy = "run the stage `prepare` of this dataset again"
            raise InputError(f"{place} cannot be read ({error}); {remedy}") from None
        groups = range(self.file.metadata.num_row_groups)
        self.ends = np.cumsum([self.file.metadata.row_group(g).num_rows for g in groups])

    def sample(self, row: int) -> Sample:
        group = int(np.searchsorted(self.ends, row, side="right"))
        first = int(self.ends[group - 1]) if group else 0
        table = self.file.read_row_group(group, use_threads=False).slice(row - first, 1)
        record = Record(*(table.column(name)[0] for name in SCHEMA.names))
        height, width = record.height.as_py(), record.width.as_py()
        labels = _tensor(record.labels.as_buffer()).view(height, width)
        image = decode_image(_tensor(record.image.as_buffer()), ImageReadMode.RGB)
        return Sample(record.id.as_py(), image, labels)


def _tensor(buffer: pa.Buffer) -> Tensor:
    return torch.from_numpy(np.frombuffer(buffer, np.uint8).copy())
