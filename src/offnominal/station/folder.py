"""The folder of a station, and the files in it.

config.toml              settings
station.sqlite           the embedded database
station.lock             held by the process that runs the station
models/DIGEST.safetensors    model files, named by the SHA-256 of their content
media/DAY/ID/            image, heat map and thumbnail of one inspection
incoming/                uploads that are being received
backups/                 copies of the database before an upgrade
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import secrets
import shutil
import threading
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

from offnominal.errors import InputError, unwritable
from offnominal.station.errors import ConflictError, UnavailableError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

#: Bytes per read when files are hashed or copied.
CHUNK = 1 << 20
_last_id, _id_lock = 0, threading.Lock()


class StationFolder:
    """Paths of a station.

    Examples
    --------
    >>> StationFolder(Path("/srv/station")).model("ab" * 32).name[:8]
    'abababab'
    """

    def __init__(self, root: Path) -> None:
        self.root = root.absolute()
        self.config, self.lock = self.root / "config.toml", self.root / "station.lock"
        self.models, self.media = self.root / "models", self.root / "media"
        self.incoming, self.backups = self.root / "incoming", self.root / "backups"

    def create(self) -> None:
        """Create the folders. Only their owner may enter them. Raises `OutputError`."""
        try:
            for folder in (self.root, self.models, self.media, self.incoming, self.backups):
                folder.mkdir(parents=True, exist_ok=True)
            os.chmod(self.root, 0o700)
        except OSError as error:
            raise unwritable(self.root, error) from None

    def require(self) -> None:
        """Raise `InputError` unless this is the folder of a station."""
        if not self.models.is_dir():
            raise InputError(f"{self.root}: is not a station; create one with: offnominal station init {self.root}")

    def model(self, digest: str) -> Path:
        """Path of a model file."""
        return self.models / f"{digest}.safetensors"

    def inspection(self, id: str, judged_at: datetime) -> Path:
        """Folder of the files of an inspection."""
        return self.media / judged_at.strftime("%Y-%m-%d") / id

    def new_upload(self) -> Path:
        """A new, unused path in `incoming`."""
        return self.incoming / secrets.token_hex(12)

    def clear_incoming(self) -> None:
        """Remove what an earlier process was receiving."""
        for path in self.incoming.iterdir():
            remove(path)

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the lock of the process that runs the station. Raises `ConflictError` if another process holds it."""
        handle = os.open(self.lock, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            if fcntl is not None:
                try:
                    fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    raise ConflictError(f"{self.root}: another process runs this station; stop it first") from None
            yield
        finally:
            os.close(handle)


def new_id() -> str:
    """32 hexadecimal digits that sort by time: milliseconds since 1970, then random bits.

    Each is greater than the one before, even if the clock is set back, so that a list that follows new inspections misses none.

    Examples
    --------
    >>> first, second = new_id(), new_id()
    >>> len(first), first < second
    (32, True)
    """
    global _last_id
    with _id_lock:
        _last_id = max(int(time.time() * 1000) << 80 | secrets.randbits(80), _last_id + 1)
        return f"{_last_id:032x}"


def file_digest(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sync_folder(folder: Path) -> None:
    """Make the entries of a folder durable."""
    if os.name == "nt":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_synced(path: Path, content: bytes) -> None:
    """Write a new file durably; its folder must be synced separately."""
    with path.open("xb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def move_synced(source: Path, target: Path) -> None:
    """Move a file durably, also to another disk; the folder of the target must be synced separately."""
    try:
        with source.open("rb") as file:
            os.fsync(file.fileno())
        os.replace(source, target)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        with source.open("rb") as reading, target.open("wb") as writing:
            shutil.copyfileobj(reading, writing, CHUNK)
            writing.flush()
            os.fsync(writing.fileno())
        source.unlink()


def remove(path: Path) -> None:
    """Remove a file or folder if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with contextlib.suppress(OSError):
            path.unlink()


def inside(path: str | Path, folders: tuple[str, ...]) -> Path | None:
    """The real path of a file if it lies in one of the folders, links resolved; otherwise None.

    Examples
    --------
    >>> inside("/etc/passwd", ("/srv/images",)) is None
    True
    """
    if "\0" in str(path):
        return None
    real = Path(os.path.realpath(path))
    return real if any(real.is_relative_to(os.path.realpath(folder)) for folder in folders) and real.is_file() else None


def write_problem(error: OSError) -> UnavailableError:
    """The error of a failed write."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return UnavailableError("the disk is full; free some space, or keep fewer images (config.toml, keep)", retry_after=30)
    return UnavailableError(f"the station's folder cannot be written ({error.strerror or error})", retry_after=30)
