"""Checked text files in the user's cache folder, for results that are slow to compute."""

from __future__ import annotations

import hashlib
from pathlib import Path

from offnominal.machine import cache_folder as cache_folder
from offnominal.storage import scratch_folder


def read_checked(path: Path) -> str | None:
    """Read the text written by `write_checked`; None if it is missing or damaged."""
    try:
        digest, _, text = path.read_text("utf-8").partition("\n")
    except (OSError, UnicodeDecodeError):
        return None
    return text if digest == _digest(text) else None


def write_checked(path: Path, text: str) -> None:
    """Write a text with its digest, atomically. Raises `OSError`."""
    with scratch_folder(path.parent, path.name) as folder:
        file = folder / "new"
        file.write_text(f"{_digest(text)}\n{text}", "utf-8")
        file.replace(path)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
