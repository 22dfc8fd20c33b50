"""What an earlier run left in a folder is removed before the next, so that no file of one stands beside those of another.

Only what a run recorded as its own is ever deleted. A record (`.offnominal.jsonl` in the folder) has a line for every file,
written before the file itself, so that it is complete however a run ends. Names and places alone prove nothing: a user may
keep files of his own in `masks`, or under the name `lot.json`.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path, PurePosixPath

from offnominal.errors import unwritable
from offnominal.storage import write_whole

RECORD, RESULTS, REPORT = ".offnominal.jsonl", "results.jsonl", "report.html"
#: Folder of the pictures of a report.
PICTURES = "report_files"


def own(folder: Path, name: str, command: str) -> Path:
    """Where to write the file `name` ("overlays/a.jpg"; its folder is made), recorded as the command's own from now on.

    Raises:
        OutputError: the folder cannot be written.
    """
    path = folder / name
    try:
        if not path.parent.is_dir():
            made = [one for one in path.relative_to(folder).parents if one.name and not (folder / one).exists()]
            path.parent.mkdir(parents=True, exist_ok=True)
            _record(folder, command, [f"{one.as_posix()}/" for one in made])
        if path.is_symlink():  # else what it points to would be written
            path.unlink()
        _record(folder, command, [name])
    except OSError as error:
        raise unwritable(path, error) from None
    return path


def own_folder(folder: Path, name: str, command: str) -> None:
    """Make the folder `name` in `folder`, and record it as the command's own if it was not there. Raises `OutputError`."""
    try:
        if not (folder / name).is_dir():
            (folder / name).mkdir(parents=True, exist_ok=True)
            _record(folder, command, [f"{name}/"])
    except OSError as error:
        raise unwritable(folder / name, error) from None


def remove_own(folder: Path, wanted: Callable[[str, str], bool]) -> None:
    """Remove what was recorded, where `wanted(name, command)`: files, then their folders if they are empty.

    Left alone is what lies outside the folder or behind a link, and what is no plain file any more.
    """
    recorded = _recorded(folder)
    chosen = {name for name, command in recorded.items() if wanted(name, command)}
    if not chosen:
        return
    for name in sorted(chosen, reverse=True):  # a folder after what is in it
        with suppress(OSError):
            _remove(folder, name)
    kept = {name: command for name, command in recorded.items() if name not in chosen or _stays(folder, name)}
    if kept:
        write_whole(folder / RECORD, "".join(_line(command, name) for name, command in kept.items()).encode())
    else:
        (folder / RECORD).unlink(missing_ok=True)


def remove_inspection(folder: Path) -> None:
    """Remove what an earlier `inspect` wrote into this folder. A report that `evaluate` wrote since then stays."""
    remove_own(folder, lambda name, command: command == "inspect")


def _stays(folder: Path, name: str) -> bool:
    """Whether a folder of ours is still there, since somebody keeps something in it."""
    return name.endswith("/") and _inside(folder, name) and (folder / name).is_dir()


def _remove(folder: Path, name: str) -> None:
    path = folder / name
    if not _inside(folder, name) or path.is_symlink():
        return
    if name.endswith("/"):
        path.rmdir()  # raises where it is not empty
    elif path.is_file():
        path.unlink()


def _inside(folder: Path, name: str) -> bool:
    """Whether a recorded name lies in the folder, without a link on the way."""
    relative = PurePosixPath(name)
    if relative.is_absolute() or not relative.parts or ".." in relative.parts:
        return False
    return (folder / relative).parent.resolve() == (folder.resolve() / relative).parent


def _record(folder: Path, command: str, names: list[str]) -> None:
    content = "".join(_line(command, name) for name in names).encode()
    handle = os.open(folder / RECORD, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        os.write(handle, content)
    finally:
        os.close(handle)


def _line(command: str, name: str) -> str:
    return json.dumps({"command": command, "file": name}) + "\n"


def _recorded(folder: Path) -> dict[str, str]:
    """Name -> the command that wrote it last; lines that are none, as after a crash, are passed over."""
    found: dict[str, str] = {}
    try:
        lines = (folder / RECORD).read_text("utf-8", "replace").splitlines()
    except OSError:
        return found
    for line in lines:
        with suppress(ValueError, TypeError, KeyError):
            entry = json.loads(line)
            name, command = entry["file"], entry["command"]
            if isinstance(name, str) and isinstance(command, str):
                found.pop(name, None)
                found[name] = command
    return found
