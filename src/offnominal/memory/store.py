"""All normal patches while a model is fitted: in memory, or beyond a limit in a temporary file, read a part at a time."""

from __future__ import annotations

import mmap
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

import numpy as np
import torch
from torch import Tensor

from offnominal.errors import unwritable

#: Bytes of a mapped file that are read before what was read is given back.
WINDOW = 32_000_000


class PatchRows:
    """(N, D) patches for reading by rows and in blocks; of a file that is mapped into memory only little stays resident.

    What was read of the file stays in the system's cache as long as there is room, so reading it again is quick, but it is
    no memory of this process.

    Args:
        patches: (N, D).
        mapped: the map that holds them, None where they lie in memory.
    """

    def __init__(self, patches: Tensor, mapped: mmap.mmap | None = None) -> None:
        self._patches, self._mapped = patches, mapped
        self.shape, self.dtype = (len(patches), patches.shape[1]), patches.dtype
        self._rows = max(1, WINDOW // max(1, patches.shape[1] * patches.element_size()))

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: Tensor | slice) -> Tensor:
        """(n,) int64 rows -> (n, D), a copy; of a slice a view, to be used before more is read."""
        if isinstance(rows, slice):
            return self._patches[rows]
        if self._mapped is None:
            return self._patches.index_select(0, rows)
        if bool((rows.diff() < 0).any()):  # neighbours in the file are read together
            rising, order = rows.sort()
            return torch.empty((len(rows), self.shape[1]), dtype=self.dtype).index_copy_(0, order, self[rising])
        found = torch.empty((len(rows), self.shape[1]), dtype=self.dtype)
        # Neighbours in the file are mapped along with what is read, so its windows are gone through one after another.
        _, counts = torch.unique_consecutive(rows // self._rows, return_counts=True)
        for part, target in zip(rows.split(counts.tolist()), found.split(counts.tolist()), strict=True):
            torch.index_select(self._patches, 0, part, out=target)
            release(self._mapped)
        return found

    def blocks(self, rows: int) -> Iterator[Tensor]:
        """All patches in order, `rows` at a time, each to be used before the next."""
        for window in self._patches.split(max(rows, self._rows // rows * rows)):
            yield from window.split(rows)
            release(self._mapped)


class RemainingRows(PatchRows):
    """The rows of another `PatchRows` without those from `start` to `stop`, which need no copy of their own."""

    def __init__(self, rows: PatchRows, start: int, stop: int) -> None:
        self._all, self._start, self._left_out = rows, start, stop - start
        self.shape, self.dtype = (len(rows) - self._left_out, rows.shape[1]), rows.dtype

    def __getitem__(self, rows: Tensor | slice) -> Tensor:
        """(n,) int64 rows -> (n, D), a copy."""
        if isinstance(rows, slice):
            rows = torch.arange(len(self))[rows]
        return self._all[torch.where(rows < self._start, rows, rows + self._left_out)]

    def blocks(self, rows: int) -> Iterator[Tensor]:
        """All patches in order, `rows` at a time."""
        for first in range(0, len(self), rows):
            yield self[slice(first, first + rows)]


def release(mapped: mmap.mmap | None) -> None:
    """Give back the memory that reading or writing a mapped file took; its content stays."""
    if mapped is not None and hasattr(mmap, "MADV_DONTNEED"):
        mapped.madvise(mmap.MADV_DONTNEED)


def _reserve(file: int, size: int) -> None:
    """Make an open file so large, with room on the disk where that can be had: writing to a map of what is not there kills.

    Raises:
        OSError: the disk is full.
    """
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(file, 0, size)
    else:
        os.truncate(file, size)


class PatchStore:
    """(N, D) float32 patches. Use as a context manager: the temporary file goes when it closes.

    The file has no name while it is in use, so that nothing stays of a process that is killed.
    """

    def __init__(self, count: int, dimensions: int, limit: int) -> None:
        self.on_disk = count * dimensions * 4 > limit
        self._mapped: mmap.mmap | None = None
        if self.on_disk:
            folder = Path(tempfile.gettempdir())
            try:
                with tempfile.TemporaryFile(prefix="offnominal-", dir=folder) as file:
                    _reserve(file.fileno(), count * dimensions * 4)
                    self._mapped = mmap.mmap(file.fileno(), 0)
            except OSError as error:
                raise unwritable(folder, error) from None
            self.patches: Tensor = torch.from_numpy(np.frombuffer(self._mapped, np.float32).reshape(count, dimensions))
        else:
            self.patches = torch.empty((count, dimensions), dtype=torch.float32)

    def rows(self, count: int) -> PatchRows:
        """The first `count` patches for reading."""
        return PatchRows(self.patches[:count], self._mapped)

    def release(self) -> None:
        """Give back the memory that reading or writing patches on disk took."""
        release(self._mapped)

    def __enter__(self) -> PatchStore:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.patches = torch.empty(0)
