"""The command `serve`."""

from __future__ import annotations

from pathlib import Path

import click

from offnominal.cli.console import say
from offnominal.cli.options import path_option


@click.command
@path_option("--station", "Folder of the station; created if it does not exist. [default: station]", default="station")
@click.option("--host", default="127.0.0.1", help="Address to listen on. [default: 127.0.0.1]")
@click.option("--port", type=int, default=8000, help="Port to listen on. [default: 8000]")
def serve(station: Path, host: str, port: int) -> None:
    """Run a station: HTTP API, operator's page, history."""
    from offnominal.cli.station import require_extra

    require_extra()
    from offnominal.station import setup
    from offnominal.station.errors import UnavailableError
    from offnominal.station.serve import run

    if not setup.exists(station):
        setup.create(station)
        say(f"{station}: new station")
    try:
        if (link := setup.first_link(station, host, port)) is not None:
            say(f"create the first user (valid once, for {setup.LINK_HOURS} hours): {link}")
    except UnavailableError as error:
        say(f"{error}; the station waits for it")
    run(station, host, port)
