"""Atomic writes, and the removal of unfinished files of killed processes.

A file is written beside its target, synced and renamed, so that a crash leaves the old file or the new one. The unfinished file
is called `.NAME-XXXXXXXX.writing` and is locked while its process lives. The operating system releases the lock of a killed
process, so the next run can distinguish an abandoned file from one that another process is writing, and removes the former.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from offnominal.errors import unwritable

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

#: Suffix of unfinished files and folders.
UNFINISHED = ".writing"
#: Age in seconds at which an unfinished file counts as abandoned if the file system has no locks.
STALE = 24 * 3600
#: Bytes of the target's name in an unfinished name; most systems allow 255 for a whole file name.
LONGEST = 200


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file atomically: `path` holds the old content or the new one, never a part.

    Parameters
    ----------
    path
        Target; missing parent folders are created.
    content
        The complete content.

    Raises
    ------
    OutputError
        The file cannot be written.

    Examples
    --------
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_atomically(Path(folder) / "new" / "a.txt", b"content")
    ...     (Path(folder) / "new" / "a.txt").read_text()
    'content'
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        remove_unfinished(path.parent, path.name)
        handle, temporary = _locked_file(path)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
                os.chmod(temporary, 0o644)
                if os.name != "nt":  # renamed while locked, so that no other run removes it
                    os.replace(temporary, path)
            if os.name == "nt":  # Windows cannot rename an open file
                os.replace(temporary, path)
        except BaseException:  # Ctrl-C too
            with contextlib.suppress(OSError):
                os.unlink(temporary)
            raise
    except OSError as error:
        raise unwritable(path, error) from None


def remove_unfinished(folder: Path, name: str) -> None:
    """Remove the abandoned unfinished files and folders of one target.

    What another process is writing stays.

    Parameters
    ----------
    folder
        Folder of the target; it need not exist.
    name
        Name of the target in `folder`.

    Examples
    --------
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     abandoned = Path(folder) / ".a.txt-12345678.writing"
    ...     abandoned.touch()
    ...     os.utime(abandoned, (0, 0))
    ...     remove_unfinished(Path(folder), "a.txt")
    ...     abandoned.exists()
    False
    """
    try:
        with os.scandir(folder) as entries:
            unfinished = [
                entry.path for entry in entries if entry.name.startswith(_prefix(name)) and entry.name.endswith(UNFINISHED)
            ]
    except OSError:
        return
    for path in unfinished:
        with contextlib.suppress(OSError):
            _remove_if_abandoned(path)


@contextlib.contextmanager
def scratch_folder(parent: Path, name: str) -> Iterator[Path]:
    """A temporary folder on the file system of its target, so that results can be renamed out of it.

    It is removed at the end of the block, or by the next call for the same target if the process is killed.

    Parameters
    ----------
    parent
        Folder of the target; it is created.
    name
        Name of the target in `parent`.

    Raises
    ------
    OSError
        The folder cannot be created.

    Examples
    --------
    >>> with tempfile.TemporaryDirectory() as parent:
    ...     with scratch_folder(Path(parent), "network") as folder:
    ...         (folder / "weights").touch()
    ...         (folder / "weights").rename(Path(parent) / "network").name
    ...     folder.exists()
    'network'
    False
    """
    parent.mkdir(parents=True, exist_ok=True)
    remove_unfinished(parent, name)
    folder = tempfile.mkdtemp(prefix=_prefix(name), suffix=UNFINISHED, dir=parent)
    handle = os.open(folder, os.O_RDONLY) if fcntl is not None else None
    try:
        if handle is not None:
            _lock(handle)
        yield Path(folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        if handle is not None:
            os.close(handle)


def _prefix(name: str) -> str:
    """Beginning of the unfinished names of a target, cut to `LONGEST` bytes."""
    while len(os.fsencode(name)) > LONGEST:
        name = name[:-1]
    return f".{name}-"


def _locked_file(path: Path) -> tuple[int, str]:
    """A new, open and locked file beside `path`."""
    while True:
        handle, name = tempfile.mkstemp(prefix=_prefix(path.name), suffix=UNFINISHED, dir=path.parent)
        _lock(handle)
        if os.path.exists(name):  # else another run removed it before it was locked
            return handle, name
        os.close(handle)


def _lock(handle: int) -> None:
    if fcntl is not None:
        with contextlib.suppress(OSError):  # a file system without locks
            fcntl.flock(handle, fcntl.LOCK_EX)


def _remove_if_abandoned(path: str) -> None:
    if fcntl is None:
        if time.time() - os.stat(path).st_mtime > STALE:
            _remove(path)
        return
    handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return
        except OSError:
            if time.time() - os.fstat(handle).st_mtime <= STALE:
                return
        _remove(path)
    finally:
        os.close(handle)


def _remove(path: str) -> None:
    if os.path.isdir(path):
        shutil.rmtree(path, ignore_errors=True)
    else:
        os.unlink(path)
