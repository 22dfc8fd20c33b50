"""The command `demo`."""

from __future__ import annotations

from pathlib import Path

import click

from offnominal.cli.console import Console, say
from offnominal.cli.options import Command, path_option


class _Stages(Console):
    """Prints the stages of the demo as plain lines."""

    def on_note(self, text: str) -> None:
        say(text)


@click.command(cls=Command)
@path_option("--out", "Folder for everything that the demo makes. [default: demo-out]", default=Path("demo-out"))
def demo(out: Path) -> None:
    """Run everything once on real solar cells."""
    from offnominal.demo import run

    with _Stages() as console:
        run(out, console)
