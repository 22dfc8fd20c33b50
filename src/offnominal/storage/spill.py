"""Arrays that spill to temporary files beyond a limit of memory."""

from __future__ import annotations

import tempfile
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from offnominal.errors import unwritable

Array = TypeVar("Array", bound=npt.NDArray[Any])

#: Size of one temporary file of a `ArrayStore`; an open file each, so not small.
_FILE_BYTES = 1 << 30
#: Arrays begin at multiples of this.
_ALIGNED = 64


class ArrayStore:
    """Keeps arrays in memory up to a limit, and the others in temporary files.

    Use as a context manager while arrays are added. The files have no name and vanish with the last array that uses them, also
    if the process is killed.

    Parameters
    ----------
    limit
        Bytes of all arrays that stay in memory.

    Examples
    --------
    >>> with ArrayStore(limit=0) as store:
    ...     on_disk = store.keep(np.arange(3))
    >>> on_disk
    memmap([0, 1, 2])
    """

    def __init__(self, limit: int) -> None:
        self._left = limit
        self._file: Any = None
        self._bytes: npt.NDArray[np.uint8] = np.empty(0, np.uint8)
        self._at = 0

    def __enter__(self) -> ArrayStore:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._close()

    def keep(self, array: Array) -> Array:
        """Return the array itself, or a read-only view of the same values on disk.

        Raises
        ------
        OutputError
            The disk is full.
        """
        if array.nbytes <= self._left:
            self._left -= array.nbytes
            return array
        try:
            if self._at + array.nbytes > len(self._bytes):
                self._open(max(_FILE_BYTES, array.nbytes))
            # Written and not copied through the view: on a full disk that is an error, the copy would be a crash.
            self._file.seek(self._at)
            self._file.write(np.ascontiguousarray(array).data)
            self._file.flush()
        except OSError as error:
            raise unwritable(Path(tempfile.gettempdir()), error) from None
        stored: Any = self._bytes[self._at : self._at + array.nbytes].view(array.dtype).reshape(array.shape)
        self._at += -(-array.nbytes // _ALIGNED) * _ALIGNED
        return stored  # type: ignore[no-any-return]

    def _open(self, size: int) -> None:
        self._close()
        self._file = tempfile.TemporaryFile(prefix="offnominal-")  # noqa: SIM115 - closed by the next one, or on exit
        self._file.truncate(size)
        self._bytes = np.asarray(np.memmap(self._file, np.uint8, "r", shape=(size,)))
        self._at = 0

    def _close(self) -> None:
        if self._file is not None:
            self._file.close()
