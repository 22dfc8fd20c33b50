"""Files of a watched folder: which ones count, what identifies them, what their names say, and how they are copied."""

from __future__ import annotations

import hashlib
import json
import os
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO

from offnominal.errors import SettingsError
from offnominal.images.decode import SUFFIXES
from offnominal.station.folder import CHUNK, inside, write_problem
from offnominal.station.settings import FolderSource

#: Endings of the stem of files that are still being written, such as `a.part.png`, and first characters of such files.
UNFINISHED, HIDDEN = (".tmp", ".temp", ".part", ".partial", ".filepart"), (".", "~")
#: Longest serial, lot and name that a row holds.
LONGEST = 256
_CONTROL = re.compile(r"[\x00-\x1f\x7f\ud800-\udfff]")


class ChangedError(Exception):
    """A file changed while it was copied."""


@dataclass(frozen=True, slots=True)
class WatchedFile:
    """A file in one state: its path relative to the folder with `/`, its size, and the time of its last change."""

    name: str
    size: int
    mtime_ns: int

    @property
    def changed_at(self) -> datetime | None:
        """The time of the last change; None if no calendar has it."""
        seconds = self.mtime_ns // 1_000_000_000
        return datetime.fromtimestamp(seconds, UTC) if 0 <= seconds < 200_000_000_000 else None


@dataclass(frozen=True)
class Listing:
    """The images of a folder, and the subfolders that could not be read with the reason."""

    files: list[WatchedFile]
    unread: dict[str, str]


def key_of(root: Path, file: WatchedFile) -> str:
    """The idempotency key of a file in its present state: the same after a restart, another one after a change.

    The folder is part of it, since two cameras may write equal names. After a folder was renamed its files count as new.

    Examples
    --------
    >>> key_of(Path("/srv/camera"), WatchedFile("a.png", 10, 0))[:11]
    'folder:7704'
    """
    content = json.dumps([os.path.abspath(root), file.name, file.size, file.mtime_ns])
    return f"folder:{hashlib.sha256(content.encode()).hexdigest()}"


def counts(name: str) -> bool:
    """Whether a path is that of an image that is not hidden and not marked as unfinished.

    Examples
    --------
    >>> [counts(name) for name in ("a/B.PNG", "a/.b.png", ".a/b.png", "a.part.png", "a.png.tmp", "notes.txt")]
    [True, False, False, False, False, False]
    """
    if any(part.startswith(HIDDEN) for part in name.split("/")):
        return False
    stem, suffix = os.path.splitext(name.lower())
    return suffix in SUFFIXES and not stem.endswith(UNFINISHED)


def listing(root: Path) -> Listing:
    """The images in a folder and its subfolders; links are not followed. Raises `OSError` if the folder cannot be read."""
    found = Listing([], {})
    folders = [""]
    while folders:
        folder = folders.pop()
        try:
            with os.scandir(root / folder) as entries:
                for entry in entries:
                    name = f"{folder}{entry.name}"
                    if entry.is_dir(follow_symlinks=False):
                        if not entry.name.startswith(HIDDEN):
                            folders.append(f"{name}/")
                    elif counts(name) and (file := state_of(root, name)) is not None:
                        found.files.append(file)
        except OSError as error:
            if not folder:
                raise
            found.unread[folder] = error.strerror or str(error)
    return found


def state_of(root: Path, name: str) -> WatchedFile | None:
    """The present state of a file; None if it is not there or not a regular file."""
    try:
        status = os.lstat(root / name)
    except OSError:
        return None
    return WatchedFile(name, status.st_size, status.st_mtime_ns) if stat.S_ISREG(status.st_mode) else None


def copy(root: Path, file: WatchedFile, target: Path) -> str:
    """Copy a file in the given state and return the SHA-256 of its content.

    Raises
    ------
    OSError
        The file cannot be read.
    ChangedError
        It is not in the given state any more.
    UnavailableError
        The target cannot be written.
    """
    digest, size = hashlib.sha256(), 0
    with _opened(root, file.name) as source:
        try:
            writing = target.open("xb")
            os.chmod(target, 0o600)
        except OSError as error:
            raise write_problem(error) from None
        with writing:
            while block := source.read(CHUNK):
                digest.update(block)
                size += len(block)
                try:
                    writing.write(block)
                    writing.flush()
                except OSError as error:
                    raise write_problem(error) from None
        status = os.fstat(source.fileno())
    if (size, status.st_size, status.st_mtime_ns) != (file.size, file.size, file.mtime_ns):
        raise ChangedError
    return digest.hexdigest()


def pattern_of(line: str, source: FolderSource) -> re.Pattern[str]:
    """The compiled pattern of a source. Raises `SettingsError`."""
    where = f"config.toml: lines.{line}.sources: serial = {source.serial!r}"
    try:
        pattern = re.compile(source.serial)
    except re.error as error:
        raise SettingsError(f"{where}: is not a regular expression ({error})") from None
    if not {"serial", "lot"} & set(pattern.groupindex):
        raise SettingsError(f"{where}: has no group named serial or lot, such as (?P<serial>[^/]+)")
    return pattern


def named_groups(pattern: re.Pattern[str], name: str) -> tuple[str | None, str | None] | None:
    """Serial and lot in a relative path; None if the pattern does not match or gives what a row cannot hold.

    Examples
    --------
    >>> named_groups(re.compile(r"(?P<lot>[^/]+)/(?P<serial>[^/]+)\\.png$"), "L7/A1.png")
    ('A1', 'L7')
    """
    match = pattern.search(name)
    if match is None:
        return None
    values = [match.groupdict().get(group) or None for group in ("serial", "lot")]
    if any(value is not None and (len(value) > LONGEST or _CONTROL.search(value)) for value in values):
        return None
    return values[0], values[1]


def shown_name(name: str) -> str:
    """The last part of a path, as a row can hold it.

    Examples
    --------
    >>> shown_name("L7/A1.png")
    'A1.png'
    """
    return _CONTROL.sub("?", name.rsplit("/", 1)[-1])[-LONGEST:]


@contextmanager
def _opened(root: Path, name: str) -> Iterator[BinaryIO]:
    """A regular file that lies in the folder. A link put in its place is refused; opening a pipe does not wait."""
    path = root / name
    if inside(path, (str(root),)) is None:
        raise FileNotFoundError(2, "is no longer a file in the folder", str(path))
    flags = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    with os.fdopen(os.open(path, flags), "rb") as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise FileNotFoundError(2, "is no longer a regular file", str(path))
        yield file
