"""What is slow to make and the same on every run is kept in the user's cache folder."""

from __future__ import annotations

import hashlib
import os
import tempfile
from pathlib import Path


def cache_folder() -> Path | None:
    """`offnominal` in the user's cache folder; None for a user who has no home."""
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "offnominal"
    except RuntimeError:
        return None


def read_checked(place: Path) -> str | None:
    """The text that `write_checked` put there; None where there is none, or a damaged one."""
    try:
        digest, _, text = place.read_text("utf-8").partition("\n")
    except (OSError, UnicodeDecodeError):
        return None
    return text if digest == _digest(text) else None


def write_checked(place: Path, text: str) -> None:
    """Put a text there with its digest, whole or not at all. Raises `OSError` where that cannot be."""
    place.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=place.parent) as name:
        file = Path(name) / "made"
        file.write_text(f"{_digest(text)}\n{text}", "utf-8")
        file.replace(place)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
