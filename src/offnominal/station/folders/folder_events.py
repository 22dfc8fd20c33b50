"""Events of the operating system about the files of a folder."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from watchdog.events import FileSystemEvent, FileSystemEventHandler
from watchdog.observers import Observer

if TYPE_CHECKING:
    from watchdog.observers.api import BaseObserver

#: Kinds of events that can mean a new file, and of those that can mean a folder of files. Reading a file makes events too.
CHANGES = frozenset({"created", "modified", "moved", "closed"})
FOLDER_CHANGES = frozenset({"created", "moved", "deleted"})


class FolderEvents:
    """Calls `changed` with the relative path of each file that changes, or with None if a folder comes or goes.

    Attributes
    ----------
    problem
        Why there are no events; None if there are.
    """

    def __init__(self, folder: Path, changed: Callable[[str | None], None]) -> None:
        self._folder, self._changed = folder, changed
        self._observer: BaseObserver | None = None
        self._observed: tuple[int, int] | None = None
        self.problem: str | None = None

    def observe(self) -> bool:
        """Observe the folder, anew if another one took its place; whether this is new. Raises `OSError` if it is not there."""
        status = os.stat(self._folder)
        identity = (status.st_dev, status.st_ino)
        if self._observed == identity:
            return False
        self.end()
        try:
            observer = Observer()
            observer.schedule(_Handler(self._folder, self._changed), str(self._folder), recursive=True)
            observer.start()
        except OSError as error:  # such as no more watches to give
            self.problem = error.strerror or str(error)
        else:
            self._observer, self.problem = observer, None
        self._observed = identity
        return True

    def end(self) -> None:
        """Observe no longer."""
        observer, self._observer, self._observed = self._observer, None, None
        if observer is not None:
            observer.stop()
            observer.join()


class _Handler(FileSystemEventHandler):
    def __init__(self, folder: Path, changed: Callable[[str | None], None]) -> None:
        self._start, self._changed = f"{folder}{os.sep}", changed

    def on_any_event(self, event: FileSystemEvent) -> None:
        """Pass on what may be a new file, or the end of the folder."""
        if event.is_directory:
            if event.event_type in FOLDER_CHANGES:
                self._changed(None)
        elif event.event_type in CHANGES:
            for name in self._names(event):
                self._changed(name)

    def _names(self, event: FileSystemEvent) -> Iterator[str]:
        for path in map(os.fsdecode, (event.src_path, event.dest_path)):
            if path.startswith(self._start):
                yield path[len(self._start) :].replace(os.sep, "/")
