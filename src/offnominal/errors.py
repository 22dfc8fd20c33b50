"""Errors with a message for the user, and the exit codes of commands.

OffnominalError            exit code 2; the message is one line: what, where and what to do
├── InputError             unusable data, path or array
│   └── ImageError         one unreadable image; processing continues with the others
├── SettingsError          unknown setting, or value out of range
├── BackboneError          unavailable backbone, layer or weights file
├── ModelFileError         missing, damaged, foreign or incompatible model file
└── OutputError            result that cannot be written
"""

from __future__ import annotations

import errno
from collections.abc import Iterable
from difflib import get_close_matches
from pathlib import Path

#: Exit codes: wrong input or setting; an anomaly, with `--fail-on-anomaly`; some images unreadable; interrupted by a signal.
WRONG_INPUT = 2
OFF_NOMINAL = 3
SOME_UNREADABLE = 4
STOPPED = 130


class OffnominalError(Exception):
    """Base class of errors whose message is meant for the user: what, where, what to do."""


class InputError(OffnominalError):
    """Data, a path or an array cannot be used."""


class ImageError(InputError):
    """One image cannot be used; the remaining images are still processed."""


class SettingsError(OffnominalError):
    """A setting does not exist or its value is out of range."""


class BackboneError(OffnominalError):
    """A backbone, one of its layers, or its weights are not available."""


class ModelFileError(OffnominalError):
    """A model file is missing, damaged, foreign or incompatible."""


class OutputError(OffnominalError):
    """A result cannot be written."""


def unwritable(path: Path, error: OSError) -> OutputError:
    """Create the error of a failed write; a full disk gets its own advice.

    Examples
    --------
    >>> unwritable(Path("out"), OSError(errno.EACCES, "Permission denied"))
    OutputError('out: cannot be written (Permission denied); choose another place')
    """
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return OutputError(f"{path}: the disk is full; free some space and run again (earlier files are kept)")
    return OutputError(f"{path}: cannot be written ({error.strerror or error}); choose another place")


def raise_if_fatal(error: Exception) -> None:
    """Raise an error that affects every image (full disk, output folder, settings); ignore one that affects a single image.

    Raises
    ------
    Exception
        `error` itself.

    Examples
    --------
    >>> raise_if_fatal(ImageError("part.png: cannot be decoded"))
    >>> raise_if_fatal(SettingsError("device = cuda: no GPU"))
    Traceback (most recent call last):
    offnominal.errors.SettingsError: device = cuda: no GPU
    """
    full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
    if full or (isinstance(error, OffnominalError) and not isinstance(error, ImageError)):
        raise error


def reason_of(error: Exception) -> str:
    """The first line of an error's message, preceded by its type unless the message is meant for the user.

    Examples
    --------
    >>> reason_of(InputError("part.png: is empty")), reason_of(KeyError("a")), reason_of(MemoryError())
    ('part.png: is empty', "KeyError: 'a'", 'MemoryError')
    """
    reason = (str(error).splitlines() or [""])[0][:160]
    if reason and isinstance(error, (OffnominalError, ValueError)):
        return reason
    return f"{type(error).__name__}: {reason}" if reason else type(error).__name__


def suggest(name: str, known: Iterable[str], listed: str | None = None) -> str:
    """Suggest the known name closest to an unknown one; without a close match, list the known names.

    Parameters
    ----------
    name
        Unknown name.
    known
        Valid names.
    listed
        Text to show instead of all of `known`, for long lists.

    Examples
    --------
    >>> suggest("neighbours", ["bank", "neighbors"])
    "did you mean 'neighbors'?"
    >>> suggest("zoom", ["bank", "neighbors"])
    'known: bank, neighbors'
    """
    known = sorted(known)
    close = get_close_matches(name, known, n=1)
    return f"did you mean '{close[0]}'?" if close else f"known: {listed or ', '.join(known)}"
