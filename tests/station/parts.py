"""Parts for tests that use a `Station` in their own process."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from offnominal.station.judge import Part
from offnominal.station.station import Station
from station.servers import LINE, PATIENCE, image_bytes


def received(station: Station, seed: int = 100, *, bad: bool = False, content: bytes | None = None, **known: Any) -> Part:
    """A part whose image lies in `incoming`, as if a client had sent it."""
    data = image_bytes(seed, bad=bad) if content is None else content
    path = station.folder.new_upload()
    path.write_bytes(data)
    digest = hashlib.sha256(data).hexdigest()
    known.setdefault("request_sha256", digest)
    return Part(line=known.pop("line", LINE), image=path, image_name="part.png", image_sha256=digest, by="test", **known)


def inspected(station: Station, seed: int = 100, *, bad: bool = False, **known: Any) -> dict[str, Any]:
    """The answer of the station to a part."""
    return station.inspect(received(station, seed, bad=bad, **known)).result(PATIENCE)


def files_of(station: Station) -> set[str]:
    """Identifiers of the inspections that have files."""
    return {folder.name for day in station.folder.media.iterdir() for folder in day.iterdir()}


def waiting_files(station: Station) -> list[Path]:
    """What lies in `incoming`."""
    return list(station.folder.incoming.iterdir())
