"""Arrays that spill to temporary files beyond a memory limit."""

from __future__ import annotations

import tempfile
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from offnominal.errors import unwritable

Array = TypeVar("Array", bound=npt.NDArray[Any])

#: Size of one temporary file of an `ArrayStore`; large, because each keeps a file open.
_FILE_BYTES = 1 << 30
#: Arrays in a file start at multiples of this many bytes.
_ALIGNED = 64


class ArrayStore:
    """Keeps arrays in memory up to a limit, and the others in temporary files.

    Use it as a context manager while arrays are added. The files have no name; the system frees them with the last array that
    uses them, or with the process.

    Parameters
    ----------
    limit
        Bytes of all arrays that stay in memory.

    Examples
    --------
    >>> with ArrayStore(limit=0) as store:
    ...     on_disk = store.keep(np.arange(3))
    >>> on_disk
    array([0, 1, 2])
    """

    def __init__(self, limit: int) -> None:
        self._free = limit
        self._file: Any = None
        self._bytes: npt.NDArray[np.uint8] = np.empty(0, np.uint8)
        self._offset = 0

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
        if array.nbytes <= self._free:
            self._free -= array.nbytes
            return array
        try:
            if self._offset + array.nbytes > len(self._bytes):
                self._open(max(_FILE_BYTES, array.nbytes))
            # Written, not copied through the memory map: a full disk is then an error instead of a crash.
            self._file.seek(self._offset)
            self._file.write(np.ascontiguousarray(array).data)
            self._file.flush()
        except OSError as error:
            raise unwritable(Path(tempfile.gettempdir()), error) from None
        stored: Any = self._bytes[self._offset : self._offset + array.nbytes].view(array.dtype).reshape(array.shape)
        self._offset += -(-array.nbytes // _ALIGNED) * _ALIGNED
        return stored  # type: ignore[no-any-return]

    def _open(self, size: int) -> None:
        self._close()
        self._file = tempfile.TemporaryFile(prefix="offnominal-")  # noqa: SIM115 - closed by the next `_open` or on exit
        self._file.truncate(size)
        self._bytes = np.asarray(np.memmap(self._file, np.uint8, "r", shape=(size,)))
        self._offset = 0

    def _close(self) -> None:
        if self._file is not None:
            self._file.close()
