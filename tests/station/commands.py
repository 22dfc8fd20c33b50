"""Runs commands of a station in this process, and what tests do with backups."""

from __future__ import annotations

import subprocess
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path
from unittest.mock import patch

from offnominal.cli import main
from offnominal.station.setup import Setup
from offnominal.station.upkeep.backup import back_up
from offnominal.station.upkeep.verify import verify


def run(*words: object, given: str = "") -> subprocess.CompletedProcess[str]:
    """Run `offnominal station …` with a standard input."""
    texts, code = ["station", *map(str, words)], 0
    with (
        redirect_stdout(StringIO()) as out,
        redirect_stderr(StringIO()) as err,
        patch("sys.stdin", StringIO(given)),
        patch("sys.argv", ["offnominal", *texts]),
    ):
        try:
            main()
        except SystemExit as stop:
            code = stop.code if isinstance(stop.code, int) else 0
    return subprocess.CompletedProcess(texts, code, out.getvalue(), err.getvalue())


def backed_up(root: Path, target: Path) -> tuple[str, ...]:
    """Back a station up; return the files that were gone."""
    with Setup(root) as opened:
        return back_up(opened.database, opened.folder, target).missing


def problems(root: Path, head: str | None = None) -> list[str]:
    """What `verify` finds."""
    found: list[str] = []
    with Setup(root) as opened:
        verify(opened.database, opened.folder, found.append, head)
    return found
