"""Progress and messages on standard error; results on standard output."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from time import monotonic
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from offnominal.types import Progress

#: Work shorter than this shows no bar.
PATIENCE = 2.0
#: Work grows with this power of what is done. A centre of the coreset costs more the more there are: by 1.5 the rest of
#: 2,000,000 x 152 -> 20,000 is told within a third of the truth from a fifth on, by 1 it would be told as a quarter of it.
GROWTH = {"memory bank": 1.5}


@contextmanager
def progress_bars() -> Iterator[Progress]:
    """Bars with rate and remaining time for stages that last more than two seconds; nothing when not on a terminal."""
    if not sys.stderr.isatty():
        yield lambda stage, done, total: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
    from rich.progress import Progress as Bars

    columns = (
        "{task.description}",
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TextColumn("{task.fields[rest]}"),
    )
    with Bars(*columns, console=Console(stderr=True), transient=True) as bars:
        started: dict[str, tuple[float, int]] = {}
        tasks: dict[str, Any] = {}

        def tick(stage: str, done: int, total: int) -> None:
            began, before = started.setdefault(stage, (monotonic(), done))
            passed = monotonic() - began
            if stage not in tasks and passed > PATIENCE and done < total:
                tasks[stage] = bars.add_task(stage, total=total, rate="", rest="")
            if stage in tasks:
                rest = f"{timedelta(seconds=round(seconds_to_go(stage, passed, before, done, total)))}" if done > before else ""
                bars.update(
                    tasks[stage],
                    completed=done,
                    total=total,
                    rate=f"{(done - before) / passed:.0f}/s" if passed else "",
                    rest=rest,
                )
            if done >= total:
                started.pop(stage)  # it may come again
                if stage in tasks:
                    bars.remove_task(tasks.pop(stage))

        yield tick


def seconds_to_go(stage: str, passed: float, before: int, done: int, total: int) -> float:
    """What is left of a stage that came from `before` to `done` of `total` in `passed` seconds."""
    power = GROWTH.get(stage, 1.0)
    return passed * float(total**power - done**power) / float(done**power - before**power)


def say(message: str) -> None:
    """A line for a person, on standard error."""
    print(message, file=sys.stderr)


def emit(value: Any) -> None:
    """A JSON value for a machine, on standard output."""
    print(json.dumps(value, indent=2, allow_nan=False))
