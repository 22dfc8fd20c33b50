"""Settings of a station: `config.toml` in its folder."""

from __future__ import annotations

import os
import tomllib
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from offnominal.errors import InputError, SettingsError, suggest
from offnominal.storage import write_atomically

#: Pattern of the names of lines: they appear in addresses and in paths.
NAME = r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}"


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class Keep(_Strict):
    """How long images are kept. Rows and events stay forever."""

    days: Annotated[float, Field(gt=0, description="Days for which images are kept.")] = 90.0
    gigabytes: Annotated[float, Field(gt=0, description="Largest total size of the images.")] = 50.0
    reserve_gigabytes: Annotated[float, Field(ge=0, description="Space that stays free on the disk.")] = 1.0
    flagged: Annotated[bool, Field(description="Keep anomalous and reviewed parts in any case.")] = True


class Limits(_Strict):
    """Limits on requests."""

    upload_megabytes: Annotated[float, Field(gt=0, description="Largest image in a request.")] = 200.0
    model_megabytes: Annotated[float, Field(gt=0, description="Largest model in a request.")] = 2000.0
    megapixels: Annotated[float, Field(gt=0, description="Largest number of pixels of an image.")] = 200.0
    waiting: Annotated[int, Field(ge=1, description="Images that may wait; more are answered 503.")] = 64
    requests_per_second: Annotated[float, Field(gt=0, description="Requests per second and client.")] = 200.0
    logins_per_minute: Annotated[float, Field(gt=0, description="Failed logins per minute and client.")] = 10.0


class FolderSource(_Strict):
    """A folder whose new images are inspected."""

    folder: Annotated[str, Field(description="The folder; subfolders count.")]
    serial: Annotated[str, Field(description="Regular expression; its group `serial` (and `lot`) is taken from the name.")] = (
        r"(?P<serial>[^/]+?)\.[^.]+$"
    )
    settle_seconds: Annotated[float, Field(ge=0, description="Seconds without a change after which a file is complete.")] = 0.5


class LineSettings(_Strict):
    """Settings of a line."""

    sources: Annotated[tuple[FolderSource, ...], Field(description="Folders to watch.", strict=False)] = ()
    allowed_folders: Annotated[
        tuple[str, ...], Field(description="Folders whose images a request may name by path.", strict=False)
    ] = ()


class StationSettings(_Strict):
    """All settings of a station. Unknown keys are errors."""

    database: Annotated[str | None, Field(description="URL of PostgreSQL; unset for the embedded SQLite.")] = None
    session_hours: Annotated[float, Field(gt=0, description="Hours after which a login expires.")] = 12.0
    secure_cookies: Annotated[
        bool, Field(description="Behind a proxy with TLS: cookies over HTTPS only, and the proxy names the client.")
    ] = False
    replay: Annotated[int, Field(ge=1, description="Latest inspections over which a new version is replayed.")] = 200
    keep: Keep = Keep()
    limits: Limits = Limits()
    lines: Annotated[dict[str, LineSettings], Field(description="Settings by line.")] = {}


def read_station_settings(path: Path) -> StationSettings:
    """Read `config.toml`; a missing file gives the defaults.

    Raises
    ------
    InputError
        The file is not TOML.
    SettingsError
        A setting is unknown or out of range.
    """
    try:
        values = tomllib.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        return StationSettings()
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read as TOML ({error})") from None
    try:
        return StationSettings(**values)
    except ValidationError as error:
        raise SettingsError(f"{path}: {_first_problem(error)}") from None


def write_database_url(path: Path, url: str) -> None:
    """Write the first `config.toml`, which only its owner may read, since the URL may hold a password."""
    quoted = url.replace("\\", "\\\\").replace('"', '\\"')
    write_atomically(path, f'database = "{quoted}"\n'.encode())
    os.chmod(path, 0o600)


def _first_problem(error: ValidationError) -> str:
    problem = error.errors()[0]
    name = ".".join(map(str, problem["loc"]))
    if problem["type"] == "extra_forbidden":
        return f"unknown setting '{name}': {suggest(str(problem['loc'][-1]), _known_names())}"
    return f"{name} = {problem['input']!r}: {problem['msg']}"


def _known_names() -> list[str]:
    models: list[type[BaseModel]] = [StationSettings, Keep, Limits, LineSettings, FolderSource]
    return [name for model in models for name in model.model_fields]


def settings_table() -> list[tuple[str, Any, str]]:
    """Name, default and description of every setting, for the reference."""
    sections: dict[str, type[BaseModel]] = {
        "": StationSettings,
        "keep.": Keep,
        "limits.": Limits,
        "lines.NAME.": LineSettings,
        "lines.NAME.sources.": FolderSource,
    }
    return [
        (prefix + name, None if field.is_required() else field.default, field.description or "")
        for prefix, model in sections.items()
        for name, field in model.model_fields.items()
        if field.description
    ]
