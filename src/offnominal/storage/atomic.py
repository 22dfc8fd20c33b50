"""Files written whole or not at all, and what a killed process left of them.

A file is made beside its target, synced and renamed, so that a crash leaves the old file or the new one. What is unfinished
has a name of its own (`.NAME-XXXXXXXX.writing`) and is locked while its process lives. The system frees the lock of a process
that is killed, so the next run can tell what is left over from what another process is just writing, and removes it.
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

#: Ending of what is unfinished.
UNFINISHED = ".writing"
#: Seconds after which something unfinished is left over, where locks cannot tell.
STALE = 24 * 3600
#: Bytes of a target's name in that of what is unfinished; a file name has at most 255 on most systems.
LONGEST = 200


def write_whole(path: Path, content: bytes) -> None:
    """Write a file so that `path` holds the old content or the new one, never a part.

    Raises:
        OutputError: it cannot be written.
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
                if os.name != "nt":  # renamed under its lock, so that no other run takes it for left over
                    os.replace(temporary, path)
            if os.name == "nt":  # Windows renames no open file
                os.replace(temporary, path)
        except BaseException:  # Ctrl-C too
            with contextlib.suppress(OSError):
                os.unlink(temporary)
            raise
    except OSError as error:
        raise unwritable(path, error) from None


def remove_unfinished(folder: Path, name: str) -> None:
    """Remove what a killed process left unfinished of the file or folder `name` in `folder`; never what one is writing."""
    try:
        with os.scandir(folder) as entries:
            found = [
                entry.path for entry in entries if entry.name.startswith(_prefix(name)) and entry.name.endswith(UNFINISHED)
            ]
    except OSError:
        return
    for path in found:
        with contextlib.suppress(OSError):
            _remove_left_over(path)


@contextlib.contextmanager
def scratch_folder(parent: Path, name: str) -> Iterator[Path]:
    """A folder in `parent` to make something in and rename it from; it goes with the block, or at the latest with the next.

    Raises:
        OSError: it cannot be made.
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
    """How what is unfinished of `name` begins: short enough for the rest of a file name."""
    while len(os.fsencode(name)) > LONGEST:
        name = name[:-1]
    return f".{name}-"


def _locked_file(path: Path) -> tuple[int, str]:
    """An open file beside `path` under a name that is not taken, with its lock."""
    while True:
        handle, name = tempfile.mkstemp(prefix=_prefix(path.name), suffix=UNFINISHED, dir=path.parent)
        _lock(handle)
        if os.path.exists(name):  # else another run took it for left over, before it was locked
            return handle, name
        os.close(handle)


def _lock(handle: int) -> None:
    if fcntl is not None:
        with contextlib.suppress(OSError):  # a file system without locks
            fcntl.flock(handle, fcntl.LOCK_EX)


def _remove_left_over(path: str) -> None:
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
