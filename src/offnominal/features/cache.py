"""What is slow to make and the same on every run is kept in the user's cache folder."""

from __future__ import annotations

import hashlib
from pathlib import Path

from offnominal.machine import cache_folder as cache_folder
from offnominal.storage import scratch_folder


def read_checked(place: Path) -> str | None:
    """The text that `write_checked` put there; None where there is none, or a damaged one."""
    try:
        digest, _, text = place.read_text("utf-8").partition("\n")
    except (OSError, UnicodeDecodeError):
        return None
    return text if digest == _digest(text) else None


def write_checked(place: Path, text: str) -> None:
    """Put a text there with its digest, whole or not at all. Raises `OSError` where that cannot be."""
    with scratch_folder(place.parent, place.name) as folder:
        file = folder / "made"
        file.write_text(f"{_digest(text)}\n{text}", "utf-8")
        file.replace(place)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
