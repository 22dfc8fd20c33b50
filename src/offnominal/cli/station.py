"""The commands `station …`: create and look after a station."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import click

from offnominal.cli.console import emit, say
from offnominal.cli.options import json_option, path_option
from offnominal.errors import SettingsError

EXTRA = ("alembic", "argon2", "fastapi", "multipart", "prometheus_client", "psycopg", "sqlalchemy", "uvicorn", "watchdog")
folder_argument = click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))


def require_extra() -> None:
    """Raise `SettingsError` if the extra `serve` is not installed."""
    missing = [name for name in EXTRA if find_spec(name) is None]
    if missing:
        raise SettingsError(f"the station needs {', '.join(missing)}: pip install 'offnominal[serve]'")


@click.group
def station() -> None:
    """Create a station and look after it; `offnominal serve` runs it."""
    require_extra()


@station.command
@folder_argument
@click.option("--database", help="URL of PostgreSQL, postgresql+psycopg://USER@HOST/NAME. [default: SQLite in DIR]")
@json_option
def init(folder: Path, database: str | None, as_json: bool) -> None:
    """Create a station; prints a one-time link for the first user and a machine token."""
    from offnominal.station import accounts, setup

    setup.create(folder, database)
    with setup.Setup(folder) as opened, opened.database.write() as session:
        link = setup.link(accounts.invite(session, "admin", setup.COMMAND))
        token = accounts.add_token(session, "machine", "operator", setup.COMMAND)
    if as_json:
        emit({"station": str(folder), "link": link, "token": token})
        return
    say(f"{folder}: new station; run it with: offnominal serve --station {folder}")
    print(f"first user (valid once, for {setup.LINK_HOURS} hours): {link}")
    print(f"machine token (role operator, shown only now): {token}")


@station.command("add-line")
@folder_argument
@click.argument("name")
@path_option("--model", "Model file; it is active at once.")
def add_line(folder: Path, name: str, model: Path | None) -> None:
    """Add a line, with its model."""
    from offnominal.station import setup

    with setup.Setup(folder) as opened:
        version = opened.add_line(name, model)
    say(f"line {name}: added" + ("" if version is None else f"; {version.promise}"))
