"""A record of the files that a run has written, so that the next run can remove them.

Only recorded files are ever deleted. The record `.offnominal.jsonl` in the folder has one line per file, written before the
file itself, so it is complete even if the run is killed. A name alone proves nothing: users may keep files of their own in
`masks` or as `lot.json`.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path, PurePosixPath

from offnominal.errors import unwritable
from offnominal.storage import write_atomically

RECORD, RESULTS, REPORT = ".offnominal.jsonl", "results.jsonl", "report.html"
#: Folder of the pictures of a report.
PICTURES = "report_files"


def own(folder: Path, name: str, command: str) -> Path:
    """Record a file as written by a command, and return its path.

    Parameters
    ----------
    folder
        Output folder of the command.
    name
        Path relative to `folder`, such as `overlays/a.jpg`; its parent folders are created.
    command
        The command that writes the file.

    Raises
    ------
    OutputError
        The folder cannot be written.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     own(Path(folder), "lot.json", "inspect").name
    ...     print((Path(folder) / RECORD).read_text(), end="")
    'lot.json'
    {"command": "inspect", "file": "lot.json"}
    """
    path = folder / name
    try:
        if not path.parent.is_dir():
            new_folders = [
                parent for parent in path.relative_to(folder).parents if parent.name and not (folder / parent).exists()
            ]
            path.parent.mkdir(parents=True, exist_ok=True)
            _record(folder, command, [f"{parent.as_posix()}/" for parent in new_folders])
        if path.is_symlink():  # else the target of the link would be overwritten
            path.unlink()
        _record(folder, command, [name])
    except OSError as error:
        raise unwritable(path, error) from None
    return path


def own_folder(folder: Path, name: str, command: str) -> None:
    """Create the folder `name` in `folder`, and record it as the command's own if it is new. Raises `OutputError`."""
    try:
        if not (folder / name).is_dir():
            (folder / name).mkdir(parents=True, exist_ok=True)
            _record(folder, command, [f"{name}/"])
    except OSError as error:
        raise unwritable(folder / name, error) from None


def remove_own(folder: Path, selected: Callable[[str, str], bool]) -> None:
    """Remove recorded files for which `selected(name, command)` is true, then their folders if they are empty.

    Files outside of the folder, files behind a symbolic link, and anything that is no regular file stay.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     own(Path(folder), "lot.json", "inspect").touch()
    ...     (Path(folder) / "mine.json").touch()
    ...     remove_own(Path(folder), lambda name, command: command == "inspect")
    ...     os.listdir(folder)
    ['mine.json']
    """
    recorded = _recorded(folder)
    removed = {name for name, command in recorded.items() if selected(name, command)}
    if not removed:
        return
    for name in sorted(removed, reverse=True):  # files before their folder
        with suppress(OSError):
            _remove(folder, name)
    remaining = {name: command for name, command in recorded.items() if name not in removed or _remains(folder, name)}
    if remaining:
        write_atomically(folder / RECORD, "".join(_line(command, name) for name, command in remaining.items()).encode())
    else:
        (folder / RECORD).unlink(missing_ok=True)


def remove_inspection(folder: Path) -> None:
    """Remove the outputs of an earlier `inspect` from a folder. A report that `evaluate` wrote later stays."""
    remove_own(folder, lambda name, command: command == "inspect")


def _remains(folder: Path, name: str) -> bool:
    """Whether a recorded folder still exists because it holds other files."""
    return name.endswith("/") and _inside(folder, name) and (folder / name).is_dir()


def _remove(folder: Path, name: str) -> None:
    path = folder / name
    if not _inside(folder, name) or path.is_symlink():
        return
    if name.endswith("/"):
        path.rmdir()  # raises if it is not empty
    elif path.is_file():
        path.unlink()


def _inside(folder: Path, name: str) -> bool:
    """Whether a recorded name lies in the folder, without a symbolic link on the way."""
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
    """Name -> the command that wrote it last; damaged lines, as after a crash, are skipped."""
    commands: dict[str, str] = {}
    try:
        lines = (folder / RECORD).read_text("utf-8", "replace").splitlines()
    except OSError:
        return commands
    for line in lines:
        with suppress(ValueError, TypeError, KeyError):
            entry = json.loads(line)
            name, command = entry["file"], entry["command"]
            if isinstance(name, str) and isinstance(command, str):
                commands.pop(name, None)
                commands[name] = command
    return commands
