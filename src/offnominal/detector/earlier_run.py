"""What an earlier run left in a folder: taken away before the next, so that no file of one stands beside those of another."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from offnominal.detector.report_files import PICTURES

#: Folders that `inspect` fills, and its files beside `results.jsonl`.
FOLDERS = ("overlays", "receipts", "maps", "masks", PICTURES)
_FILES = ("report.html", "lot.json", "drift.json", "masks.json")
RESULTS = "results.jsonl"


def remove_inspection(folder: Path) -> None:
    """Remove what an earlier `inspect` wrote into this folder: what its `results.jsonl` names, and nothing else."""
    results = folder / RESULTS
    with suppress(OSError):
        rows = results.read_text("utf-8").splitlines()
        for name in {name for row in rows for name in _named(row)}:
            path = (folder / name).resolve()
            if path.is_relative_to(folder.resolve()):
                path.unlink(missing_ok=True)
        for name in (*_FILES, RESULTS):
            (folder / name).unlink(missing_ok=True)
        shutil.rmtree(folder / PICTURES, ignore_errors=True)
        for name in FOLDERS:
            with suppress(OSError):  # not there, or somebody keeps something else in it
                (folder / name).rmdir()


def _named(row: str) -> Iterator[str]:
    """The files that a line of `results.jsonl` names; none where it is not one of ours."""
    try:
        entry: dict[str, Any] = json.loads(row)
        found = [entry["map"], entry.get("receipt"), entry.get("mask")]
        found += [drawn["path"] for drawn in (entry.get("maps") or {}).values()]
    except (ValueError, TypeError, KeyError, AttributeError):
        return
    yield from (name for name in found if isinstance(name, str))
