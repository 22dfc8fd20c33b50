"""What an earlier run left in a folder: taken away before the next, so that no file of one stands beside those of another."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from offnominal.detector.outputs.report_files import PICTURES
from offnominal.images import RUN_FOLDERS

#: What `inspect` writes beside `results.jsonl` and its folders.
_FILES = ("lot.json", "drift.json", "masks.json")
_KEYS = {"path", "score", "p_value", "anomalous", "threshold", "regions", "map", "error"}
RESULTS, REPORT = "results.jsonl", "report.html"


def remove_inspection(folder: Path) -> None:
    """Remove what an earlier `inspect` wrote into this folder: what its `results.jsonl` names, and nothing else.

    Where that is empty the run did not end, and its pictures are told by their numbers. Of a file of this name that is not one
    of ours nothing is believed. A report beside the figures of `evaluate` is its.
    """
    with suppress(OSError):
        try:
            rows = [json.loads(line) for line in (folder / RESULTS).read_text("utf-8").splitlines()]
        except ValueError:
            return
        if not all(isinstance(row, dict) and set(row) >= _KEYS for row in rows):
            return
        for path in _left(folder, rows):
            path.unlink(missing_ok=True)
        if rows and not (folder / "metrics.json").exists():
            (folder / REPORT).unlink(missing_ok=True)
            shutil.rmtree(folder / PICTURES, ignore_errors=True)
        for name in RUN_FOLDERS:
            with suppress(OSError):  # not there, or somebody keeps something else in it
                (folder / name).rmdir()


def _left(folder: Path, rows: Sequence[Any]) -> Iterator[Path]:
    """What a run with these rows left, but for its report."""
    if not rows:
        for name in RUN_FOLDERS:
            yield from (folder / name).glob("[0-9][0-9][0-9][0-9][0-9]-*")
        return
    for name in {name for row in rows for name in _named(row)}:
        path = (folder / name).resolve()
        if path.is_relative_to(folder.resolve()):
            yield path
    yield from (folder / name for name in (*_FILES, RESULTS))


def _named(row: dict[str, Any]) -> Iterator[str]:
    """The files that a row names."""
    maps = row.get("maps")
    drawn = [told.get("path") for told in maps.values() if isinstance(told, dict)] if isinstance(maps, dict) else []
    yield from (name for name in (row["map"], row.get("receipt"), row.get("mask"), *drawn) if isinstance(name, str))
