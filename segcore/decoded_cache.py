"""Decoded samples on the node's own disk: a file each, mapped into memory by whoever reads it.

They are named after the content of their shard (its sha256) and their row in it, so that every
process and every training of a node shares them and none can be out of date. All together take
at most a given number of bytes: when they are full, those of shards that no training since has
used make room, else the sample is simply decoded again. A file is written aside and renamed; a
killed process leaves nothing that could be taken for whole.
"""

import fcntl
import mmap
import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from shutil import rmtree
from time import time
from typing import Any
from weakref import finalize

import numpy as np
import torch

from segcore.copies import FOLDER, cache_folder
from segcore.errors import InputError
from segcore.files import written_whole
from segcore.shards import ShardReader
from segcore.types import Sample

FORMAT = "decoded-1"
"""Changes when a decoder's pixels or the layout of a file do."""
HEADER = struct.Struct("<III")
"""Height, width, bytes of the name; then the name in UTF-8, RGB pixels, and labels."""


def default_folder() -> Path:
    """Beside the copies of remote shards."""
    return cache_folder() / FORMAT


class DecodedCache:
    """At most ``limit`` bytes of decoded samples in ``folder``, of which ``shards`` are in use.

    Raises InputError where the folder cannot be written.
    """

    def __init__(self, folder: Path, limit: int, shards: frozenset[str]) -> None:
        self.folder, self.limit, self.shards = folder, limit, shards
        self.begun = time()
        try:
            for shard in shards:
                (folder / shard).mkdir(parents=True, exist_ok=True)
                os.utime(folder / shard)  # in use from now on
            self._users = os.open(folder / "users", os.O_RDWR | os.O_CREAT)
            finalize(self, os.close, self._users)
            self._join()
        except OSError as error:
            raise InputError(
                f"the decoded cache cannot be kept in {folder} ({error.strerror}); name another "
                f"folder in {FOLDER}, or set decoded_cache to 0"
            ) from None

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in vars(self).items() if key != "_users"}

    def _join(self) -> None:
        """Whoever finds nobody else at work counts anew, and removes what the killed left."""
        try:
            fcntl.flock(self._users, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            fcntl.flock(self._users, fcntl.LOCK_SH)
            return
        used = 0
        for file in self.folder.glob("*/*"):
            if file.suffix == ".part":
                file.unlink()
            else:
                used += file.stat().st_size
        self._write_used(used)
        fcntl.flock(self._users, fcntl.LOCK_SH)  # from now on others see that somebody is here

    def read(self, shard: str, row: int) -> Sample | None:
        """None where the sample is not there. Its pixels are the file's own: what is written
        into them stays in this process."""
        try:
            with (self.folder / shard / str(row)).open("rb") as file:
                mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
        except (FileNotFoundError, ValueError):  # an empty file cannot be mapped
            return None
        if len(mapped) < HEADER.size:
            return None
        height, width, letters = HEADER.unpack_from(mapped)
        first, count = HEADER.size + letters, height * width
        if len(mapped) != first + 4 * count:
            return None
        values = np.frombuffer(mapped, np.uint8, offset=first)
        image = torch.from_numpy(values[: 3 * count].reshape(height, width, 3)).permute(2, 0, 1)
        labels = torch.from_numpy(values[3 * count :].reshape(height, width))
        return Sample(mapped[HEADER.size : first].decode(), image, labels)

    def write(self, shard: str, row: int, sample: Sample) -> bool:
        """Whether there was room for it. A disk that is full, or a folder that somebody deleted,
        is no reason to end a training."""
        name = sample.id.encode()
        height, width = sample.labels.shape
        size = HEADER.size + len(name) + 4 * height * width
        try:
            if not self._reserve(size):
                return False
            with written_whole(self.folder / shard / str(row)) as aside, aside.open("wb") as file:
                file.write(HEADER.pack(height, width, len(name)) + name)
                file.write(sample.image.permute(1, 2, 0).contiguous().numpy().data)
                file.write(sample.labels.contiguous().numpy().data)
        except OSError:
            return False
        return True

    def _reserve(self, size: int) -> bool:
        with self._locked():
            used = self._read_used()
            if used + size > self.limit:
                used = max(used - self._make_room(used + size - self.limit), 0)
            fits = used + size <= self.limit
            self._write_used(used + size if fits else used)
            return fits

    def _make_room(self, missing: int) -> int:
        """Removes shards that no training since this one began has used, the oldest first;
        returns how many bytes."""
        others = [each for each in self.folder.iterdir() if each.name not in self.shards]
        dated = sorted((each.stat().st_mtime, each) for each in others if each.is_dir())
        removed = 0
        for used_at, shard in dated:
            if removed >= missing or used_at >= self.begun:
                break
            removed += sum(file.stat().st_size for file in shard.iterdir())
            rmtree(shard)
        return removed

    def _read_used(self) -> int:
        text = (self.folder / "used").read_text()
        return int(text) if text else self.limit  # killed as it wrote: full, until counted anew

    def _write_used(self, used: int) -> None:
        (self.folder / "used").write_text(str(used))

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """One process at a time. The kernel lets go of what a killed one held."""
        with (self.folder / "lock").open("a") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield


class DecodedReader(ShardReader):
    """A reader that keeps up to ``limit`` bytes of what it decoded, for all processes here."""

    def __init__(self, folder: str, split: str | tuple[str, ...], limit: int, cache: Path) -> None:
        super().__init__(folder, split)
        self.cache = DecodedCache(cache, limit, frozenset(sha256 for _, sha256 in self.shards))

    def __getitem__(self, index: int) -> Sample:
        shard, row = self.place_of(index)
        _, sha256 = self.shards[shard]
        if kept := self.cache.read(sha256, row):
            return kept
        sample = super().__getitem__(index)
        self.cache.write(sha256, row, sample)
        return sample


def open_reader(folder: str, split: str | tuple[str, ...], gigabytes: float) -> ShardReader:
    """A reader that keeps as many 10^9 bytes of decoded samples in this machine's own cache."""
    limit = int(gigabytes * 1e9)
    if not limit:
        return ShardReader(folder, split)
    return DecodedReader(folder, split, limit, default_folder())
