"""Parquet shards and their manifest: what ``prepare`` writes and everything downstream reads.

One row is one sample: ``id``, ``image`` (the file's own encoded bytes), ``labels`` (raw uint8
train ids, row by row, under zstd), ``height``, ``width``. The class table stands in the file's
metadata and in ``manifest.json``, so nothing downstream needs to know the dataset.
"""

import json
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from segcore.copies import Source, source_of
from segcore.decoding import decode
from segcore.errors import InputError, suggestion
from segcore.files import written_whole
from segcore.storage import Ranges, is_local, path_of, read_bytes
from segcore.types import ClassTable, Sample

MANIFEST = "manifest.json"
ROW_GROUP_BYTES = 1 << 20
"""Random access reads a whole row group, so groups are small; one sample may exceed it."""
MOST_OPEN = 256
"""Files a reader keeps open; systems allow a process 1024 or fewer."""

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
    header = json.dumps({"format": 1, "classes": asdict(classes)})
    schema, rows = SCHEMA.with_metadata({"segcore": header}), 0
    options: Any = {
        "compression": dict.fromkeys(SCHEMA.names, "none") | {"labels": "zstd"},
        "use_dictionary": False,
        "write_statistics": False,
        "write_page_checksum": True,  # a flipped bit would still be a JPEG, of something else
    }
    with written_whole(path) as aside, pq.ParquetWriter(aside, schema, **options) as writer:
        for group in _row_groups(records):
            columns = zip(*group, strict=True)
            arrays = [pa.array(c, f.type) for c, f in zip(columns, schema, strict=True)]
            writer.write_table(pa.Table.from_arrays(arrays, schema=schema), len(group))
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
        place, remedy = (
            f"{folder.rstrip('/')}/{MANIFEST}",
            "run the stage `prepare` of this dataset",
        )
        if not is_local(place):
            remedy = "check the address, and publish the dataset there"
        try:
            values = json.loads(read_bytes(place))
            names, colours, mirror = (values["classes"][f.name] for f in fields(ClassTable))
            table = ClassTable(tuple(names), tuple(map(tuple, colours)), tuple(mirror))
            return cls(values["dataset"], values["data_hash"], table, values["splits"])
        except FileNotFoundError:
            raise InputError(f"{place} is missing; {remedy}") from None
        except InputError:
            raise
        except (ValueError, KeyError, TypeError):
            raise InputError(f"{place} is not whole; {remedy} again") from None

    def split(self, name: str) -> dict[str, Any]:
        if name not in self.splits:
            raise InputError(
                f"dataset {self.dataset} has no split {name!r}{suggestion(name, self.splits)}"
            )
        return self.splits[name]


class ShardReader:
    """The samples of a split, or of several, by index, in the order of preparation.

    ``folder`` is a local path or any address that fsspec knows; of remote shards, copies on this
    machine are read. Files are opened at first use, in the process that uses them, so a reader
    may be sent to loader workers.
    """

    def __init__(self, folder: str, split: str | tuple[str, ...]) -> None:
        self.folder = folder.rstrip("/")
        manifest, names = Manifest.read(folder), (split,) if isinstance(split, str) else split
        shards = [shard for name in names for shard in manifest.split(name)["shards"]]
        self.shards = [(shard["name"], shard["sha256"]) for shard in shards]
        self.ends = np.cumsum([shard["rows"] for shard in shards], dtype=np.int64)

    def __len__(self) -> int:
        return int(self.ends[-1]) if len(self.ends) else 0

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in vars(self).items() if key != "_files"}

    def __getitem__(self, index: int) -> Sample:
        shard, row = self.place_of(index)
        return self._file(shard).sample(row)

    def place_of(self, index: int) -> tuple[int, int]:
        """The number of its shard, and its row there."""
        if not 0 <= index < len(self):
            raise IndexError(index)
        shard = int(np.searchsorted(self.ends, index, side="right"))
        return shard, index - (int(self.ends[shard - 1]) if shard else 0)

    @cached_property
    def _files(self) -> dict[tuple[int, int], "_OpenShard"]:
        return {}

    def _file(self, shard: int) -> "_OpenShard":
        key = os.getpid(), shard  # a forked worker must not share a parent's connection
        if key not in self._files:
            if len(self._files) >= MOST_OPEN:
                self._files.pop(next(iter(self._files)))
            name, sha256 = self.shards[shard]
            self._files[key] = _OpenShard(source_of(f"{self.folder}/{name}", sha256))
        return self._files[key]


class _OpenShard:
    def __init__(self, source: Source) -> None:
        self.source, mapped = source, not isinstance(source.file, Ranges)
        with self._blamed():
            self.file = pq.ParquetFile(
                path_of(source.place) if mapped else source.file,
                memory_map=mapped,
                pre_buffer=not mapped,  # a row group is then one request, not one per column
                page_checksum_verification=True,
            )
        groups = range(self.file.metadata.num_row_groups)
        self.ends = np.cumsum([self.file.metadata.row_group(g).num_rows for g in groups])

    def sample(self, row: int) -> Sample:
        group = int(np.searchsorted(self.ends, row, side="right"))
        first = int(self.ends[group - 1]) if group else 0
        with self._blamed():
            table = self.file.read_row_group(group, use_threads=False)
            name, encoded, raw, height, width = (column[row - first] for column in table.columns)
            values = np.frombuffer(raw.as_buffer(), np.uint8).copy()  # writable, and its own
            labels = torch.from_numpy(values).view(height.as_py(), width.as_py())
            pixels = torch.from_numpy(decode(encoded.as_buffer())).permute(2, 0, 1)
            return Sample(name.as_py(), pixels, labels)

    @contextmanager
    def _blamed(self) -> Iterator[None]:
        try:
            yield
        except InputError:
            raise
        except (OSError, RuntimeError, IndexError, ValueError) as error:
            place, remedy, _ = self.source
            raise InputError(f"{place} cannot be read ({error}); {remedy}") from None
