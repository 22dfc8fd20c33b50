"""The file format of backups: a tar archive of plain files, which `tar` can list and unpack.

tables/NAME-000001.jsonl    rows of a table, one JSON object a line, in the order of their keys; a long table has several files
config.toml                 settings, without the URL of the database
models/DIGEST.safetensors   model files
media/DAY/ID/FILE           image, heat map and other pictures of an inspection
files.jsonl                 name, size and SHA-256 of each file above, in this order; a file that was gone has no SHA-256
manifest.json               last, so that only a complete archive has one: versions, time, totals, and the digest of files.jsonl

Archives are read as files of strangers: only regular files with these names are accepted, in the plain format of POSIX (ustar)
without extensions, and nothing is written before its name and size agree with the listing.
"""

from __future__ import annotations

import hashlib
import io
import re
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO, Literal

from pydantic import BaseModel, ConfigDict, Field

from offnominal.errors import InputError
from offnominal.station.folder import CHUNK

BLOCK = 512
FILES, MANIFEST, CONFIG = "files.jsonl", "manifest.json", "config.toml"
#: Names of members.
NAMES = re.compile(
    r"tables/(?P<table>[a-z_]{1,40})-[0-9]{6}\.jsonl|config\.toml|models/(?P<digest>[0-9a-f]{64})\.safetensors|"
    r"media/[0-9]{4}-[0-9]{2}-[0-9]{2}/[0-9a-f]{32}/[a-z]{1,20}\.[a-z]{1,10}|files\.jsonl|manifest\.json"
)
#: Bytes of a table in one member, of a line in a table, and of the manifest and of the settings.
PART, LONGEST_LINE, SMALL = 32_000_000, 16_000_000, 1_000_000


class Size(BaseModel):
    """Size and digest of a file."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    size: int = Field(ge=0)
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")


class Entry(BaseModel):
    """A line of files.jsonl. A file without SHA-256 was gone when it was to be copied."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    name: str = Field(max_length=100)
    size: int = Field(ge=0)
    sha256: str | None = Field(pattern=r"^[0-9a-f]{64}$")


class Manifest(BaseModel):
    """What an archive holds.

    Attributes
    ----------
    revision
        Revision of the tables.
    events, head
        Number and hash of the last event.
    members, bytes
        Files before files.jsonl, and their total size.
    missing
        Files that were gone when they were to be copied.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    format: Literal["offnominal-station"] = "offnominal-station"
    version: Literal[1] = 1
    offnominal: str = Field(max_length=40)
    created: str = Field(max_length=40)
    database: str = Field(max_length=20)
    revision: str = Field(max_length=40)
    events: int = Field(ge=0)
    head: str = Field(pattern=r"^[0-9a-f]{64}$")
    members: int = Field(ge=0)
    bytes: int = Field(ge=0)
    missing: int = Field(ge=0)
    files: Size


@dataclass(frozen=True)
class Member:
    """A file in an archive, and where its content starts."""

    name: str
    size: int
    start: int


class ArchiveWriter:
    """Writes members one after another, with bounded memory.

    Examples
    --------
    >>> file = io.BytesIO()
    >>> writer = ArchiveWriter(file)
    >>> writer.add("config.toml", io.BytesIO(b"replay = 5"), 10).sha256[:8]
    'e35e1dab'
    >>> writer.close()
    >>> [(member.name, member.size) for member in read_members(file)]
    [('config.toml', 10)]
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file

    def add(self, name: str, source: BinaryIO, size: int) -> Size:
        """Add a file of which `size` bytes are read. Raises `OSError` if there are fewer, `InputError` for a strange name."""
        if NAMES.fullmatch(name) is None:
            raise InputError(
                f"{name[:80]}: no file of a station has such a name; a row was changed: offnominal station verify DIR"
            )
        info = tarfile.TarInfo(name)
        info.size, info.mode = size, 0o600
        self._file.write(info.tobuf(tarfile.USTAR_FORMAT))
        digest, left = hashlib.sha256(), size
        while left:
            block = source.read(min(CHUNK, left))
            if not block:
                raise OSError(f"{name}: became shorter while it was copied")
            digest.update(block)
            self._file.write(block)
            left -= len(block)
        self._file.write(bytes(-size % BLOCK))
        return Size(size=size, sha256=digest.hexdigest())

    def close(self) -> None:
        """Write the end mark."""
        self._file.write(bytes(2 * BLOCK))


def require_name(name: str) -> None:
    """Raise `InputError` unless a file of a station may have this name."""
    if NAMES.fullmatch(name) is None:
        raise InputError(f"{name[:80]}: no file of a station has such a name; a row was changed: offnominal station verify DIR")


def read_members(file: BinaryIO) -> Iterator[Member]:
    """Members of an archive of a stranger, without their content.

    Raises
    ------
    InputError
        A member is not a regular file of this format, or the file ends early.
    """
    end, start = file.seek(0, io.SEEK_END), 0
    while True:
        file.seek(start)
        header = file.read(BLOCK)
        if header == bytes(BLOCK):
            break
        try:
            info = tarfile.TarInfo.frombuf(header, "ascii", "strict")
        except (tarfile.TarError, ValueError):
            raise InputError("the archive is damaged or cut off: no member or end mark where one must be") from None
        if NAMES.fullmatch(info.name) is None or info.type != tarfile.REGTYPE or info.linkname:
            raise InputError(f"the archive has a member that is none of a station: {info.name[:80]!r}")
        if not 0 <= info.size <= end - start - 3 * BLOCK:
            raise InputError(f"the archive is cut off, or says a wrong size: {info.name}")
        yield Member(info.name, info.size, start + BLOCK)
        start += BLOCK + info.size + -info.size % BLOCK
    while block := file.read(CHUNK):
        if block.strip(b"\0"):
            raise InputError("the archive has something after its end mark")


class Content(io.RawIOBase):
    """The content of a member as a file of its own; `sha256` is that of what was read."""

    def __init__(self, file: BinaryIO, member: Member) -> None:
        self._file, self._position, self._left = file, member.start, member.size
        self._digest = hashlib.sha256()

    @property
    def sha256(self) -> str:
        """SHA-256 of what was read so far."""
        return self._digest.hexdigest()

    def readable(self) -> bool:
        """It can be read."""
        return True

    def read(self, size: int = -1) -> bytes:
        """Up to `size` bytes."""
        self._file.seek(self._position)
        block = self._file.read(min(self._left, self._left if size is None or size < 0 else size))
        self._position, self._left = self._position + len(block), self._left - len(block)
        self._digest.update(block)
        return block

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        """Fill a buffer."""
        block = self.read(len(buffer))
        buffer[: len(block)] = block
        return len(block)


def read_small(file: BinaryIO, member: Member) -> bytes:
    """The content of a member that must be small. Raises `InputError`."""
    if member.size > SMALL:
        raise InputError(f"the archive has a {member.name} of {member.size} bytes; at most {SMALL} are accepted")
    return Content(file, member).read()


def read_lines(content: Content) -> Iterator[bytes]:
    """Lines of a member. Raises `InputError` if one is too long."""
    lines = io.BufferedReader(content, CHUNK)
    while line := lines.readline(LONGEST_LINE):
        if not line.endswith(b"\n"):
            raise InputError("the archive has a line that is too long or not ended")
        yield line
