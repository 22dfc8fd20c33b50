"""The commands `station …`: create and look after a station."""

from __future__ import annotations

import sys
from importlib.util import find_spec
from pathlib import Path

import click

from offnominal.cli.console import emit, say
from offnominal.cli.options import json_option, path_option
from offnominal.errors import SettingsError

EXTRA = ("alembic", "argon2", "fastapi", "multipart", "prometheus_client", "psycopg", "sqlalchemy", "uvicorn", "watchdog")
ROLES = "viewer, operator, engineer, admin"
#: Exit code of `verify` and `restore` if something does not match.
MISMATCH = 1
#: Names that `backup` prints of files that were gone.
SHOWN = 20
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


@station.command
@folder_argument
@click.argument("name", required=False)
@click.option("--role", default="operator", help=f"{ROLES}. [default: operator]")
@click.option("--link", is_flag=True, help="Print a one-time link instead; whoever opens it chooses name and password.")
@click.option("--host", default="127.0.0.1", help="Address in the link. [default: 127.0.0.1]")
@click.option("--port", type=int, default=8000, help="Port in the link. [default: 8000]")
@json_option
def user(folder: Path, name: str | None, role: str, link: bool, host: str, port: int, as_json: bool) -> None:
    """Add a user; the password is read from standard input. The station may run."""
    from offnominal.station import accounts, setup

    if link == (name is not None):
        raise SettingsError("give either a NAME or --link")
    with setup.Setup(folder) as opened:
        accounts.require_role(role)
        if name is None:
            with opened.database.write() as session:
                address = setup.link(accounts.invite(session, role, setup.COMMAND), host, port)
            if as_json:
                emit({"link": address, "role": role})
            else:
                print(f"new user (role {role}, valid once, for {setup.LINK_HOURS} hours): {address}")
            return
        password = _password()
        with opened.database.write() as session:
            accounts.add_user(session, name, role, password, setup.COMMAND)
    if as_json:
        emit({"user": name, "role": role})
    else:
        say(f"user {name}: added with the role {role}")


@station.command
@folder_argument
@click.argument("name")
@click.option("--role", default="operator", help=f"{ROLES}. [default: operator]")
@json_option
def token(folder: Path, name: str, role: str, as_json: bool) -> None:
    """Add a token for a machine and print it. The station may run."""
    from offnominal.station import accounts, setup

    with setup.Setup(folder) as opened, opened.database.write() as session:
        secret = accounts.add_token(session, name, role, setup.COMMAND)
    if as_json:
        emit({"name": name, "role": role, "token": secret})
        return
    say(f"token {name} (role {role}, shown only now):")
    print(secret)


@station.command
@folder_argument
@click.argument("target", metavar="FILE", type=click.Path(path_type=Path))
@json_option
def backup(folder: Path, target: Path, as_json: bool) -> None:
    """Write tables, models, images and settings to one file. The station may run."""
    from offnominal.station import setup
    from offnominal.station.upkeep.backup import back_up

    with setup.Setup(folder) as opened:
        done = back_up(opened.database, opened.folder, target)
    manifest = done.manifest
    if as_json:
        emit({"backup": str(target), **manifest.model_dump(), "missing": list(done.missing)})
        return
    for name in done.missing[:SHOWN]:
        say(f"note: {name} was gone before it was copied")
    if len(done.missing) > SHOWN:
        say(f"note: {len(done.missing) - SHOWN} more files were gone")
    say(f"{target}: {manifest.members} files, {manifest.bytes / 1e6:.1f} MB; {manifest.events} events")
    print(f"head: {manifest.head}")


@station.command
@click.argument("archive", metavar="FILE", type=click.Path(path_type=Path))
@folder_argument
@click.option("--database", help="URL of an empty PostgreSQL, postgresql+psycopg://USER@HOST/NAME. [default: SQLite in DIR]")
@json_option
def restore(archive: Path, folder: Path, database: str | None, as_json: bool) -> None:
    """Create a station from a backup, in a new or empty folder, and verify it.

    Exit code 1 if the restored station has problems; it is kept.
    """
    from offnominal.station import setup
    from offnominal.station.upkeep.restore import restore as restore_backup
    from offnominal.station.upkeep.verify import verify as verify_station

    manifest = restore_backup(archive, folder, database)
    problems: list[str] = []
    with setup.Setup(folder) as opened:
        done = verify_station(opened.database, opened.folder, problems.append, manifest.head)
        named = sorted({name for line in opened.settings.lines.values() for name in line.allowed_folders})
        named += sorted({source.folder for line in opened.settings.lines.values() for source in line.sources})
    if as_json:
        emit({"station": str(folder), "created": manifest.created, "head": done.head, "problems": problems, "folders": named})
    else:
        say(f"{folder}: restored as of {manifest.created}: {done.inspections} inspections, {done.models} models")
        if named:
            say(f"note: its config.toml lets the station read {', '.join(named)}; check that before you run it")
        for problem in problems:
            print(problem)
        print(f"head: {done.head}")
    if problems:
        raise click.exceptions.Exit(MISMATCH)


@station.command
@folder_argument
@click.option("--head", help="Hash that an earlier run printed; it must occur in the event log.")
@json_option
def verify(folder: Path, head: str | None, as_json: bool) -> None:
    """Check that nothing was changed, added or left out: event log, rows, models, images.

    Prints one line per problem and the head of the event log. Keep the head elsewhere: with --head it proves later that no
    event was cut off at the end. Exit code 1 if there are problems. The station may run.
    """
    from offnominal.station import setup
    from offnominal.station.upkeep.verify import verify as verify_station

    problems: list[str] = []
    report = problems.append if as_json else print
    with setup.Setup(folder) as opened:
        done = verify_station(opened.database, opened.folder, report, head)
    if as_json:
        found = {"ok": done.problems == 0, "problems": problems, "events": done.events, "head": done.head}
        emit(found | {"inspections": done.inspections, "images": done.images, "models": done.models})
    else:
        looked = f"{done.events} events, {done.inspections} inspections, {done.images} images, {done.models} models"
        say(f"{folder}: {done.problems} problems in {looked}" if done.problems else f"{folder}: whole: {looked}")
        print(f"head: {done.head}")
    if done.problems:
        raise click.exceptions.Exit(MISMATCH)


@station.command
@folder_argument
@json_option
def prune(folder: Path, as_json: bool) -> None:
    """Remove images that the policy of config.toml (keep) no longer keeps; rows and events stay. The station may run."""
    from offnominal.station import media, setup

    with setup.Setup(folder) as opened:
        done = media.prune(opened.database, opened.folder, opened.settings.keep)
    if as_json:
        emit({"inspections": done.inspections, "bytes": done.bytes})
    else:
        say(f"{folder}: removed the images of {done.inspections} inspections, {done.bytes / 1e6:.1f} MB")


def _password() -> str:
    """A password from the terminal, not shown and asked twice, or the first line of standard input."""
    if sys.stdin.isatty():
        return str(click.prompt("Password", hide_input=True, confirmation_prompt=True, err=True))
    return sys.stdin.readline().rstrip("\r\n")
