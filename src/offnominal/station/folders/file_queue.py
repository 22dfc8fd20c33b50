"""What a watcher knows about the files of its folder: which ones wait, which are being inspected, and which are done."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Collection
from dataclasses import dataclass

from offnominal.station.folders.watched_files import WatchedFile

#: Seconds before another attempt with a file that cannot be inspected, doubled after each up to the second number.
RETRY, LONGEST_RETRY = 1.0, 60.0
#: Seconds for which an empty file must not change: some programs create a file long before they write it.
EMPTY_SETTLE = 10.0


@dataclass
class Waiting:
    """A file that is not inspected yet, and when it is next looked at."""

    file: WatchedFile
    ready_at: float
    retry: float = RETRY


class FileQueue:
    """The files of one folder, each in one state at a time. Times are those of a monotonic clock.

    Parameters
    ----------
    settle
        Seconds for which a file must not change.

    Attributes
    ----------
    flying
        Files that are being inspected.
    troubled
        Name -> reason, of files that cannot be inspected yet.

    Examples
    --------
    >>> queue, file = FileQueue(settle=0.5), WatchedFile("a.png", 10, 0)
    >>> queue.note(file, now=7.0)
    >>> queue.next_at(), queue.take(now=7.4, state=lambda name: file), queue.take(now=7.5, state=lambda name: file)
    (7.5, None, WatchedFile(name='a.png', size=10, mtime_ns=0))
    """

    def __init__(self, settle: float) -> None:
        self._settle = settle
        self._done: dict[str, WatchedFile] = {}
        self._waiting: dict[str, Waiting] = {}
        self._order: list[tuple[float, int, str]] = []
        self.flying: dict[WatchedFile, Waiting] = {}
        self.troubled: dict[str, str] = {}
        #: Names of files that vanished before they were inspected, for the log.
        self.vanished: list[str] = []

    def is_new(self, file: WatchedFile) -> bool:
        """Whether a file in this state neither waits nor is or was inspected."""
        waiting = self._waiting.get(file.name)
        if waiting is not None and waiting.file == file:
            return False
        return self._done.get(file.name) != file and file not in self.flying

    def note(self, file: WatchedFile, now: float) -> None:
        """Let a file wait until it has not changed for long enough."""
        self._put(Waiting(file, now + (self._settle if file.size else max(self._settle, EMPTY_SETTLE))))

    def next_at(self) -> float | None:
        """When the next file is to be looked at; None if no file waits."""
        return self._order[0][0] if self._order else None

    def take(self, now: float, state: Callable[[str], WatchedFile | None]) -> WatchedFile | None:
        """The next file that is whole, which counts as being inspected from now on; None if there is none now.

        Among files that are due, those that changed first come first.
        """
        while self._order and self._order[0][0] <= now:
            ready_at, _, name = heapq.heappop(self._order)
            waiting = self._waiting.get(name)
            if waiting is None or waiting.ready_at != ready_at:
                continue  # a later entry replaced this one
            current = state(name)
            if current is None:
                self._forget(name)
            elif current != waiting.file:
                self.note(current, now)
            else:
                del self._waiting[name]
                self.flying[current] = waiting
                return current
        return None

    def finish(self, file: WatchedFile) -> None:
        """A file is done."""
        self.flying.pop(file, None)
        self._done[file.name] = file
        self.troubled.pop(file.name, None)

    def put_back(self, file: WatchedFile) -> None:
        """A file was not inspected, for a reason that is not its own; it waits again."""
        waiting = self.flying.pop(file)
        if file.name not in self._waiting:  # else it has changed in the meantime
            self._put(waiting)

    def fail(self, file: WatchedFile, reason: str, now: float) -> bool:
        """A file was not inspected, for a reason of its own; it is tried again later. Whether the reason is new."""
        waiting = self.flying[file]
        waiting.ready_at, waiting.retry = now + waiting.retry, min(2 * waiting.retry, LONGEST_RETRY)
        self.put_back(file)
        is_new = self.troubled.get(file.name) != reason
        self.troubled[file.name] = reason
        return is_new

    def keep(self, present: Collection[WatchedFile]) -> None:
        """Forget the files that are gone, so that memory does not grow with the age of the folder."""
        names = {file.name: file for file in present}
        for name in [name for name in self._waiting if name not in names]:
            self._forget(name)
        self._done = {name: file for name, file in self._done.items() if names.get(name) == file}

    def _forget(self, name: str) -> None:
        del self._waiting[name]
        self.troubled.pop(name, None)
        self.vanished.append(name)

    def _put(self, waiting: Waiting) -> None:
        self._waiting[waiting.file.name] = waiting
        heapq.heappush(self._order, (waiting.ready_at, waiting.file.mtime_ns, waiting.file.name))
