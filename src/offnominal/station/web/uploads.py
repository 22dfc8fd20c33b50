"""Receives images and models into `incoming`, and checks what can be checked before they are read."""

from __future__ import annotations

import hashlib
import os
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from fastapi import UploadFile
from PIL import Image

from offnominal.errors import InputError
from offnominal.images.file_checks import FORMATS
from offnominal.quiet import without_warnings
from offnominal.station.errors import ForbiddenError, TooLargeError
from offnominal.station.folder import CHUNK, inside, remove, write_problem
from offnominal.station.station import Station

#: Longest serial number, lot, key and name of a file.
LONGEST = 256


@dataclass(frozen=True)
class Received:
    """A file in `incoming`, with the name that the client gave it and its SHA-256."""

    path: Path
    name: str
    sha256: str


def receive(station: Station, upload: UploadFile | None, path: str | None, allowed: tuple[str, ...]) -> Received:
    """Copy an uploaded image, or one that a path names, into `incoming`.

    Raises
    ------
    InputError
        Neither or both are given, or the path is not a file.
    ForbiddenError
        The path lies outside the allowed folders of the line.
    TooLargeError
        The image has too many bytes or pixels.
    UnavailableError
        The disk is full.
    """
    if (upload is None) == (path is None):
        raise InputError("send one image: the multipart field image with a file, or path with a path on the station's machine")
    most = int(station.settings.limits.upload_megabytes * 1e6)
    if path is not None:
        real = inside(path, allowed)
        if real is None:
            raise ForbiddenError("path: is not a file in an allowed folder of this line (config.toml, allowed_folders)")
        with real.open("rb") as source:
            received = _copy(station, source.read, safe_name(real.name), most)
    else:
        assert upload is not None
        received = _copy(station, upload.file.read, safe_name(upload.filename), most)
    try:
        require_pixels(received.path, received.name, station.settings.limits.megapixels)
    except BaseException:
        remove(received.path)
        raise
    return received


def require_pixels(path: Path, name: str, megapixels: float) -> None:
    """Raise `TooLargeError` if the header of an image has too many pixels. The decoder refuses unknown formats."""
    try:
        with without_warnings(), Image.open(path, formats=FORMATS) as image:
            width, height = image.size
    except Image.DecompressionBombError:
        raise TooLargeError(f"{name}: has more than {megapixels:g} megapixels") from None
    except Exception:  # noqa: BLE001 - a damaged header raises almost anything; the decoder says what is wrong
        return
    if width * height > megapixels * 1e6:
        raise TooLargeError(f"{name}: has {width} x {height} pixels; at most {megapixels:g} megapixels are accepted")


def receive_model(station: Station, upload: UploadFile) -> Path:
    """Copy an uploaded model into `incoming`."""
    return _copy(station, upload.file.read, "model", int(station.settings.limits.model_megabytes * 1e6)).path


def safe_name(name: str | None) -> str:
    """The last part of a file name, without control characters and of bounded length.

    Examples
    --------
    >>> safe_name("../../etc/passwd"), safe_name(None)
    ('passwd', 'image')
    """
    last = re.split(r"[/\\]", name or "")[-1]
    return re.sub(r"[\x00-\x1f\x7f\ud800-\udfff]", "", last)[-LONGEST:] or "image"


def text(name: str, value: str | None) -> str | None:
    """A short text without control characters; an empty one counts as none. Raises `InputError`."""
    if not value:
        return None
    if len(value) > LONGEST or re.search(r"[\x00-\x1f\x7f\ud800-\udfff]", value):
        raise InputError(f"{name}: give up to {LONGEST} characters without control characters")
    return value


def instant(name: str, value: str | None) -> datetime | None:
    """A time in ISO 8601; without a time zone it counts as UTC. Raises `InputError`."""
    if not value:
        return None
    try:
        parsed = datetime.fromisoformat(value)
        parsed = parsed.replace(tzinfo=UTC) if parsed.tzinfo is None else parsed.astimezone(UTC)
    except (ValueError, OverflowError):
        raise InputError(f"{name} = {value[:40]!r}: give a time such as 2026-11-30T14:05:00+01:00") from None
    if not 1970 <= parsed.year <= 9000:
        raise InputError(f"{name} = {value[:40]!r}: the year is out of range")
    return parsed


def request_digest(received: Received, *fields: str | None) -> str:
    """SHA-256 of a request, by which a repeated idempotency key is checked."""
    content = "\0".join([received.sha256, *("" if field is None else "=" + field for field in fields)])
    return hashlib.sha256(content.encode("utf-8", "surrogatepass")).hexdigest()


def _copy(station: Station, read: object, name: str, most: int) -> Received:
    assert callable(read)
    target, digest, size = station.folder.new_upload(), hashlib.sha256(), 0
    try:
        with target.open("xb") as file:
            os.chmod(target, 0o600)
            while block := read(CHUNK):
                size += len(block)
                if size > most:
                    raise TooLargeError(f"{name}: has more than {most} bytes")
                digest.update(block)
                file.write(block)
    except OSError as error:
        remove(target)
        raise write_problem(error) from None
    except BaseException:
        remove(target)
        raise
    return Received(target, name, digest.hexdigest())
