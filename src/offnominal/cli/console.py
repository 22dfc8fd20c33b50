"""Progress and messages on standard error; results on standard output."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from time import monotonic
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from offnominal.types import Progress

#: Work shorter than this shows no bar.
PATIENCE = 2.0


@contextmanager
def progress_bars() -> Iterator[Progress]:
    """Bars with rate and remaining time for stages that last more than two seconds; nothing when not on a terminal."""
    if not sys.stderr.isatty():
        yield lambda stage, done, total: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bars

    columns = (
        "{task.description}",
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(),
    )
    with Bars(*columns, console=Console(stderr=True), transient=True) as bars:
        started: dict[str, float] = {}
        tasks: dict[str, Any] = {}

        def tick(stage: str, done: int, total: int) -> None:
            began = started.setdefault(stage, monotonic())
            passed = monotonic() - began
            if stage not in tasks and passed > PATIENCE and done < total:
                tasks[stage] = bars.add_task(stage, total=total, rate="")
            if stage in tasks:
                bars.update(tasks[stage], completed=done, total=total, rate=f"{done / passed:.0f}/s" if passed else "")
                if done >= total:
                    bars.remove_task(tasks.pop(stage))

        yield tick


def say(message: str) -> None:
    """A line for a person, on standard error."""
    print(message, file=sys.stderr)


def emit(value: Any) -> None:
    """A JSON value for a machine, on standard output."""
    print(json.dumps(value, indent=2, allow_nan=False))
