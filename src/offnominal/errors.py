"""The errors that a user can meet, mapped once to exit codes.

OffnominalError            exit code 2: one line that says what, where and what to do
├── InputError             data, path or array that cannot be used
│   └── ImageError         one image that cannot be read (the others go on)
├── SettingsError          a setting that is unknown or out of its range
├── BackboneError          a backbone, layer or weights file that cannot be had
├── ModelFileError         a model file that is missing, damaged, foreign or of another version
└── OutputError            a result that cannot be written
"""

from __future__ import annotations

import errno
from collections.abc import Iterable
from difflib import get_close_matches
from pathlib import Path

WRONG_INPUT = 2
OFF_NOMINAL = 3
SOME_UNREADABLE = 4
STOPPED = 130


class OffnominalError(Exception):
    """Base of every error whose message is meant for the user: what, where, what to do."""


class InputError(OffnominalError):
    """Data that cannot be used as it is."""


class ImageError(InputError):
    """One image that cannot be used; the remaining ones are still processed."""


class SettingsError(OffnominalError):
    """A setting that does not exist or lies outside its range."""


class BackboneError(OffnominalError):
    """A backbone, one of its layers, or its weights cannot be had."""


class ModelFileError(OffnominalError):
    """A model file that cannot be trusted."""


class OutputError(OffnominalError):
    """A result that could not be written."""


def unwritable(path: Path, error: OSError) -> OutputError:
    """The one-line form of a failed write; a full disk gets its own remedy."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return OutputError(f"{path}: the disk is full; free some space and run again (what was there before is kept)")
    return OutputError(f"{path}: cannot be written ({error.strerror or error}); choose another place")


def raise_unless_of_one_image(error: Exception) -> None:
    """Raise what ends the whole run: the disk, the output folder, a setting. All else costs the image that it was raised at.

    Raises:
        Exception: `error` itself.
    """
    full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
    if full or (isinstance(error, OffnominalError) and not isinstance(error, ImageError)):
        raise error


def reason_of(error: Exception) -> str:
    """An error in one short line; with its kind, unless it was raised for a person to read."""
    why = (str(error).splitlines() or [""])[0][:160]
    if why and isinstance(error, (OffnominalError, ValueError)):
        return why
    return f"{type(error).__name__}: {why}" if why else type(error).__name__


def nearest(name: str, known: Iterable[str], listed: str | None = None) -> str:
    """`did you mean 'x'?`, or what is known: all of it, or what is `listed` where that is too much."""
    known = sorted(known)
    close = get_close_matches(name, known, n=1)
    return f"did you mean '{close[0]}'?" if close else f"known: {listed or ', '.join(known)}"
