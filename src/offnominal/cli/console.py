"""Progress and messages on standard error, results on standard output."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Any

from offnominal.observer import Observer, Plan

if TYPE_CHECKING:
    from rich.progress import Progress as Bars
    from rich.progress import TaskID

#: Seconds after which a stage shows a bar.
PATIENCE = 2.0
#: Exponent of the work already done, by stage: each centre of the coreset takes longer than the one before.
GROWTH = {"memory bank": 1.5}


class Console(Observer):
    """Progress bars with rate and remaining time for stages that last more than two seconds; notes and plans as lines.

    Use as a context manager. Without a terminal there are no bars.
    """

    def __init__(self, on_plan: Callable[[Plan], None] = lambda plan: None) -> None:
        self._on_plan = on_plan
        self._bars: Bars | None = None
        self._started: dict[str, tuple[float, int]] = {}
        self._tasks: dict[str, TaskID] = {}

    def __enter__(self) -> Console:
        if sys.stderr.isatty():
            from rich.console import Console as Terminal
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

            columns = (
                "{task.description}",
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[rate]}"),
                TextColumn("{task.fields[rest]}"),
            )
            self._bars = Progress(*columns, console=Terminal(stderr=True), transient=True)
            self._bars.start()
        return self

    def __exit__(self, *error: object) -> None:
        if self._bars is not None:
            self._bars.stop()

    def on_plan(self, plan: Plan) -> None:
        """Pass the plan on."""
        self._on_plan(plan)

    def on_note(self, text: str) -> None:
        """Print the note."""
        say(f"note: {text}")

    def on_progress(self, stage: str, done: int, total: int) -> None:
        """Show or advance the bar of the stage."""
        if self._bars is None:
            return
        began, before = self._started.setdefault(stage, (monotonic(), done))
        passed = monotonic() - began
        if stage not in self._tasks and passed > PATIENCE and done < total:
            self._tasks[stage] = self._bars.add_task(stage, total=total, rate="", rest="")
        if stage in self._tasks:
            rest = f"{timedelta(seconds=round(seconds_to_go(stage, passed, before, done, total)))}" if done > before else ""
            rate = f"{(done - before) / passed:.0f}/s" if passed else ""
            self._bars.update(self._tasks[stage], completed=done, total=total, rate=rate, rest=rest)
        if done >= total:
            self._started.pop(stage)  # the stage may come again
            if stage in self._tasks:
                self._bars.remove_task(self._tasks.pop(stage))


def seconds_to_go(stage: str, passed: float, before: int, done: int, total: int) -> float:
    """Estimate the remaining seconds of a stage that went from `before` to `done` of `total` in `passed` seconds."""
    power = GROWTH.get(stage, 1.0)
    return passed * float(total**power - done**power) / float(done**power - before**power)


def say(message: str) -> None:
    """A line for a person, on standard error."""
    print(message, file=sys.stderr)


def emit(value: Any) -> None:
    """A JSON value for a machine, on standard output."""
    print(json.dumps(value, indent=2, allow_nan=False))


def title_of(data: str) -> str:
    """The title of a report: the name of the data."""
    return Path(data).absolute().stem.replace("_", " ")
