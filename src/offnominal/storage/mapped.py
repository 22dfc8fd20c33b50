"""Temporary files mapped into memory, for data that is written and read in parts."""

from __future__ import annotations

import mmap
import os
import tempfile
from pathlib import Path

from offnominal.errors import unwritable


def mapped_file(size: int) -> mmap.mmap:
    """Map a new temporary file of `size` bytes. It has no name, so a killed process leaves nothing behind.

    The disk space is allocated at once: a write to a map without space would kill the process.

    Raises
    ------
    OutputError
        The file cannot be created, or the disk is full.

    Examples
    --------
    >>> mapped = mapped_file(4)
    >>> mapped[:2] = b"ab"
    >>> release(mapped)
    >>> mapped[:4]
    b'ab\\x00\\x00'
    """
    folder = Path(tempfile.gettempdir())
    try:
        with tempfile.TemporaryFile(prefix="offnominal-", dir=folder) as file:
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(file.fileno(), 0, size)
            else:
                os.truncate(file.fileno(), size)
            return mmap.mmap(file.fileno(), 0)
    except OSError as error:
        raise unwritable(folder, error) from None


def release(mapped: mmap.mmap | None) -> None:
    """Release the resident memory of a mapped file; its content stays. None is ignored."""
    if mapped is not None and hasattr(mmap, "MADV_DONTNEED"):
        mapped.madvise(mmap.MADV_DONTNEED)
