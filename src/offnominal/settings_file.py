"""Settings files."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

from offnominal.errors import InputError


def read_settings(path: Path) -> dict[str, Any]:
    """Read the values of a TOML file without checking them; pass them to `settings_from`.

    Parameters
    ----------
    path
        TOML file. Dashes in names are read as underscores.

    Returns
    -------
    dict
        Values by name.

    Raises
    ------
    InputError
        If the file cannot be read or is not valid TOML.

    Examples
    --------
    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder:
    ...     path = Path(folder, "fit.toml")
    ...     _ = path.write_text('image-size = "320"')
    ...     read_settings(path)
    {'image_size': '320'}
    """
    try:
        values = tomllib.loads(path.read_text("utf-8"))
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); check --config") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: is not valid TOML ({error})") from None
    return {name.replace("-", "_"): value for name, value in values.items()}
