"""Storage of all normal patches during a fit: in memory, or beyond a limit in a temporary file that is read in parts."""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from types import TracebackType

import numpy as np
import torch
from torch import Tensor

from offnominal.storage.mapped import mapped_file, release

#: Bytes of a mapped file to read before their memory is released.
WINDOW = 32_000_000


class PatchRows:
    """Read access to (N, D) patches by rows and in blocks.

    Little of a mapped file stays resident in this process. The system caches what was read, so reading it again is fast.

    Parameters
    ----------
    patches
        (N, D).
    mapped
        Memory map that holds the patches; None if they are in memory.

    Examples
    --------
    >>> rows = PatchRows(torch.arange(8.0).reshape(4, 2))
    >>> rows[torch.tensor([3, 0])].tolist()
    [[6.0, 7.0], [0.0, 1.0]]
    >>> [len(block) for block in rows.blocks(3)]
    [3, 1]
    """

    def __init__(self, patches: Tensor, mapped: mmap.mmap | None = None) -> None:
        self._patches, self._mapped = patches, mapped
        self.shape, self.dtype = (len(patches), patches.shape[1]), patches.dtype
        self._rows = max(1, WINDOW // max(1, patches.shape[1] * patches.element_size()))

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: Tensor | slice) -> Tensor:
        """(n,) int64 rows -> (n, D) copy; a slice -> a view, valid until the next read."""
        if isinstance(rows, slice):
            return self._patches[rows]
        if self._mapped is None:
            return self._patches.index_select(0, rows)
        if bool((rows.diff() < 0).any()):  # read in ascending order
            ascending, order = rows.sort()
            return torch.empty((len(rows), self.shape[1]), dtype=self.dtype).index_copy_(0, order, self[ascending])
        patches = torch.empty((len(rows), self.shape[1]), dtype=self.dtype)
        # Reading a row maps the rows around it as well, so the file is read one window at a time.
        _, counts = torch.unique_consecutive(rows // self._rows, return_counts=True)
        for part, target in zip(rows.split(counts.tolist()), patches.split(counts.tolist()), strict=True):
            torch.index_select(self._patches, 0, part, out=target)
            release(self._mapped)
        return patches

    def release(self) -> None:
        """Release the resident memory of patches on disk."""
        release(self._mapped)

    def blocks(self, rows: int) -> Iterator[Tensor]:
        """All patches in order, `rows` at a time; each block is valid until the next."""
        for window in self._patches.split(max(rows, self._rows // rows * rows)):
            yield from window.split(rows)
            release(self._mapped)


class RemainingRows(PatchRows):
    """The rows of another `PatchRows` without those from `start` to `stop`, without copying them.

    Examples
    --------
    >>> rows = PatchRows(torch.arange(4.0).reshape(4, 1))
    >>> RemainingRows(rows, 1, 3)[0:2].tolist()
    [[0.0], [3.0]]
    """

    def __init__(self, rows: PatchRows, start: int, stop: int) -> None:
        self._all, self._start, self._omitted, self._mapped = rows, start, stop - start, None
        self.shape, self.dtype = (len(rows) - self._omitted, rows.shape[1]), rows.dtype

    def __getitem__(self, rows: Tensor | slice) -> Tensor:
        """(n,) int64 rows or a slice -> (n, D) copy."""
        if isinstance(rows, slice):
            rows = torch.arange(len(self))[rows]
        return self._all[torch.where(rows < self._start, rows, rows + self._omitted)]

    def blocks(self, rows: int) -> Iterator[Tensor]:
        """All patches in order, `rows` at a time."""
        for first in range(0, len(self), rows):
            yield self[slice(first, first + rows)]


class PatchStore:
    """Writable (N, D) float32 patches; a context manager that removes its temporary file on exit.

    The temporary file has no name, so a killed process leaves nothing behind.

    Parameters
    ----------
    count, dimensions
        N and D.
    limit
        Bytes of memory; larger stores use a temporary file.

    Attributes
    ----------
    patches
        (N, D) float32 tensor to write to.
    on_disk
        Whether the patches are in a temporary file.

    Raises
    ------
    OutputError
        If the temporary file cannot be created or the disk is full.

    Examples
    --------
    >>> with PatchStore(3, 2, limit=1_000_000) as store:
    ...     store.patches[:] = torch.arange(6.0).reshape(3, 2)
    ...     store.on_disk, store.rows(2)[torch.tensor([1])].tolist()
    (False, [[2.0, 3.0]])
    """

    def __init__(self, count: int, dimensions: int, limit: int) -> None:
        self.on_disk = count * dimensions * 4 > limit
        self._mapped: mmap.mmap | None = None
        if self.on_disk:
            self._mapped = mapped_file(count * dimensions * 4)
            self.patches: Tensor = torch.from_numpy(np.frombuffer(self._mapped, np.float32).reshape(count, dimensions))
        else:
            self.patches = torch.empty((count, dimensions), dtype=torch.float32)

    def rows(self, count: int) -> PatchRows:
        """Read access to the first `count` patches."""
        return PatchRows(self.patches[:count], self._mapped)

    def release(self) -> None:
        """Release the resident memory of patches on disk."""
        release(self._mapped)

    def __enter__(self) -> PatchStore:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.patches = torch.empty(0)
