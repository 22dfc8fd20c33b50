"""Watched folders: each image in them is inspected once, as soon as it is whole.

A file is whole when size and time of change have stayed the same for `settle_seconds`. Its idempotency key is made of its path,
size and time of change, so the database knows after a restart, or after a power cut, what was inspected. Files that cannot be
inspected now (queue or disk full, database away, no model) wait and are tried again. The files themselves stay where they are.

Events of the operating system make it quick, and a listing now and then makes it sure: network shares send no events, and where
the system has no more watches to give, listings alone find the files.

A file that the decoder refuses, also for its number of pixels, becomes a row with the verdict `unreadable`. One with more than
`limits.upload_megabytes` is not copied: the log has its name and the metric `offnominal_refused` counts it.
"""

from __future__ import annotations

import logging
import os
import threading
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Any

from sqlalchemy import select

from offnominal.errors import SettingsError, reason_of
from offnominal.station import lines, media
from offnominal.station.errors import NotFoundError, UnavailableError
from offnominal.station.folder import remove
from offnominal.station.folders.file_queue import RETRY, FileQueue
from offnominal.station.folders.folder_events import FolderEvents
from offnominal.station.folders.watched_files import (
    ChangedError,
    WatchedFile,
    copy,
    counts,
    key_of,
    listing,
    named_groups,
    pattern_of,
    shown_name,
    state_of,
)
from offnominal.station.judge import Part
from offnominal.station.settings import FolderSource
from offnominal.station.tables import Inspection

if TYPE_CHECKING:
    from offnominal.station.station import Station

log = logging.getLogger(__name__)
#: The source of these inspections, and who sends them.
FOLDER = "folder"
#: Seconds between two listings with and without events. A listing may take a share of the time at most.
LIST_EVERY, LIST_WITHOUT_EVENTS, SHARE_OF_TIME = 10.0, 2.0, 0.1
#: Keys that are looked up in one query.
KEYS = 500


class Watch:
    """All watched folders of a station.

    Raises
    ------
    SettingsError
        A pattern is wrong, or a folder contains the station's own images.
    """

    def __init__(self, station: Station) -> None:
        self._watchers = [
            FolderWatcher(station, line, source)
            for line, settings in station.settings.lines.items()
            for source in settings.sources
        ]

    def start(self) -> None:
        """Start to watch."""
        for watcher in self._watchers:
            watcher.start()

    def stop(self) -> None:
        """Take no more files; what was taken is still inspected by the judge."""
        for watcher in self._watchers:
            watcher.stop()

    def problems(self) -> list[str]:
        """Folders that cannot be watched, one sentence each."""
        return [f"line {watcher.line}: {watcher.blocked}" for watcher in self._watchers if watcher.blocked is not None]

    def problem(self, line: str) -> str | None:
        """What is wrong with the folders or files of a line."""
        problems = [watcher.blocked or watcher.trouble for watcher in self._watchers if watcher.line == line]
        return "; ".join(problem for problem in problems if problem is not None) or None


class FolderWatcher:
    """Inspects the images of one folder, in a thread of its own.

    Parameters
    ----------
    station
        The running station.
    line
        Name of the line.
    source
        The folder; a relative path starts at the folder of the station.

    Attributes
    ----------
    blocked
        Why the folder cannot be watched at all; None if it can.
    trouble
        Files that cannot be inspected yet; None if there are none.
    """

    def __init__(self, station: Station, line: str, source: FolderSource) -> None:
        self._station, self.line = station, line
        self.folder = Path(os.path.abspath(station.folder.root / source.folder))
        self._pattern, self._unmatched = pattern_of(line, source), False
        own = [path.resolve() for path in (station.folder.media, station.folder.incoming, station.folder.models)]
        real = self.folder.resolve()
        if any(real.is_relative_to(one) or one.is_relative_to(real) for one in own):
            raise SettingsError(
                f"config.toml: lines.{line}.sources: {self.folder} holds files of the station; give another folder"
            )
        self.blocked: str | None = None
        self.trouble: str | None = None
        self._files = FileQueue(source.settle_seconds)
        self._events = FolderEvents(self.folder, self._change)
        self._changed: deque[str | None] = deque()
        self._answers: deque[tuple[WatchedFile, BaseException | None]] = deque()
        self._list_at, self._hold_until, self._held = 0.0, 0.0, False
        self._wake, self._stopping = threading.Event(), False
        self._thread = threading.Thread(target=self._run, name=f"watch-{line}")

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self) -> None:
        """End the thread; files that are being inspected are left to the judge."""
        self._stopping = True
        self._wake.set()
        if self._thread.is_alive():
            self._thread.join()
        self._events.end()

    def _change(self, name: str | None) -> None:
        self._changed.append(name)
        self._wake.set()

    def _run(self) -> None:
        while not self._stopping:
            self._wake.clear()
            try:
                self._round()
            except UnavailableError as error:
                self._hold(error)
                self._list_at = max(self._list_at, self._hold_until)
            except Exception:  # the watcher must outlive whatever happens in one round
                log.exception("line %s: watching %s failed; it is tried again", self.line, self.folder)
                self._list_at = self._hold_until = monotonic() + RETRY
            self._wake.wait(self._pause())

    def _round(self) -> None:
        while self._answers:
            self._finish(*self._answers.popleft())
        for name in [self._changed.popleft() for _ in range(len(self._changed))]:
            if name is None:
                self._list_at = min(self._list_at, monotonic() + RETRY)
            elif counts(name) and (file := state_of(self.folder, name)) is not None and self._files.is_new(file):
                self._files.note(file, monotonic())
        if monotonic() >= self._list_at:
            self._list()
        self._submit_ready()
        self._tell()

    def _pause(self) -> float:
        """Seconds until there is something to do, unless an event or an answer comes."""
        due, next_at = self._list_at, self._files.next_at()
        if next_at is not None and len(self._files.flying) < self._most_flying():
            due = min(due, max(next_at, self._hold_until))
        return max(0.0, due - monotonic())

    def _list(self) -> None:
        started = monotonic()
        self._list_at = started + LIST_WITHOUT_EVENTS
        line_id = self._line_id()
        if line_id is None:
            return
        try:
            if self._events.observe() and self._events.problem is not None:
                log.warning("line %s: %s is listed more often: no events (%s)", self.line, self.folder, self._events.problem)
            listed = listing(self.folder)
        except OSError as error:
            self._events.end()
            reason = "does not exist" if isinstance(error, FileNotFoundError) else f"cannot be read ({error.strerror or error})"
            self._block(f"folder {self.folder} {reason}; its images are inspected once it is there")
            return
        self._block(None)
        self._note_unread(listed.unread)
        self._files.keep(listed.files)
        fresh = [file for file in listed.files if self._files.is_new(file)]
        known = self._known(line_id, fresh)
        for file in fresh:
            if file in known:
                self._files.finish(file)
            else:
                self._files.note(file, started)
        ended = monotonic()
        usual = LIST_EVERY if self._events.problem is None else LIST_WITHOUT_EVENTS
        self._list_at = ended + max(usual, (ended - started) / SHARE_OF_TIME)

    def _line_id(self) -> int | None:
        """The line, if it has a model that is ready; otherwise None, and its files wait."""
        loaded = self._station.judge.loaded(self.line)
        if loaded is not None:
            return loaded.line_id
        if self._station.started:
            with self._station.database.read() as session:
                try:
                    lines.line_named(session, self.line)
                    self._block(None)
                except NotFoundError:
                    self._block("has a folder in config.toml and does not exist; create it: offnominal station add-line")
        return None

    def _known(self, line_id: int, files: Sequence[WatchedFile]) -> set[WatchedFile]:
        """Those files that have a row in their present state."""
        known: set[WatchedFile] = set()
        for start in range(0, len(files), KEYS):
            keys = {key_of(self.folder, file): file for file in files[start : start + KEYS]}
            column = Inspection.idempotency_key
            with self._station.database.read() as session:
                found = session.scalars(select(column).where(Inspection.line_id == line_id, column.in_(keys)))
                known.update(keys[key] for key in found if key is not None)
        return known

    def _submit_ready(self) -> None:
        while len(self._files.flying) < self._most_flying() and monotonic() >= self._hold_until and not self._stopping:
            file = self._files.take(monotonic(), lambda name: state_of(self.folder, name))
            if file is None:
                return
            self._submit(file)

    def _submit(self, file: WatchedFile) -> None:
        most = self._station.settings.limits.upload_megabytes
        if file.size > most * 1e6:
            self._files.finish(file)
            self._station.metrics.refused.labels("TooLargeError").inc()
            log.warning("line %s: %s is not inspected: it has more than %g MB", self.line, self.folder / file.name, most)
            return
        try:
            self._require_station()
            self._station.inspect(self._part(file)).add_done_callback(lambda future: self._answer(file, future))
        except Exception as error:  # noqa: BLE001 - belongs to this file; the others go on
            self._finish(file, error)

    def _require_station(self) -> None:
        """Raise `UnavailableError` if the station cannot inspect now, before a file is copied."""
        self._station.require_space()
        if self._station.judge.loaded(self.line) is None:
            raise UnavailableError("no model is ready", retry_after=2)
        if (full := media.disk_problem(self._station.folder, self._station.settings.keep)) is not None:
            raise UnavailableError(full, retry_after=10)

    def _part(self, file: WatchedFile) -> Part:
        groups = named_groups(self._pattern, file.name)
        if groups is None and not self._unmatched:
            self._unmatched = True
            log.warning("line %s: %s has no serial: the pattern does not match", self.line, self.folder / file.name)
        serial, lot = groups or (None, None)
        target = self._station.folder.new_upload()
        try:
            sha256 = copy(self.folder, file, target)
        except BaseException:
            remove(target)
            raise
        return Part(
            line=self.line,
            image=target,
            image_name=shown_name(file.name),
            image_sha256=sha256,
            by=FOLDER,
            source=FOLDER,
            serial=serial,
            lot=lot,
            taken_at=file.changed_at,
            idempotency_key=key_of(self.folder, file),
            request_sha256=sha256,
        )

    def _answer(self, file: WatchedFile, future: Future[Any]) -> None:
        self._answers.append((file, future.exception()))
        self._wake.set()

    def _finish(self, file: WatchedFile, error: BaseException | None) -> None:
        """A file was inspected, or must wait."""
        if error is None:
            self._files.finish(file)
            self._held = False
        elif isinstance(error, UnavailableError | ChangedError):
            self._files.put_back(file)
            if isinstance(error, UnavailableError):
                self._hold(error)
        else:
            reason = reason_of(error) if isinstance(error, Exception) else repr(error)
            if self._files.fail(file, reason, monotonic()):
                log.warning("line %s: %s cannot be inspected now (%s)", self.line, self.folder / file.name, reason)

    def _hold(self, error: UnavailableError) -> None:
        """Submit nothing for a while; the reason is logged once until a file is inspected again."""
        self._hold_until = monotonic() + error.retry_after
        if not self._held:
            log.warning("line %s: images in %s wait (%s)", self.line, self.folder, error)
        self._held = True

    def _block(self, problem: str | None) -> None:
        if problem is not None and problem != self.blocked:
            log.warning("line %s: %s", self.line, problem)
        self.blocked = problem

    def _note_unread(self, unread: dict[str, str]) -> None:
        """Keep the reasons of subfolders that cannot be read among those of files; their names end with a slash."""
        troubled = self._files.troubled
        for name in [name for name in troubled if name.endswith("/") and name not in unread]:
            del troubled[name]
        for name, reason in unread.items():
            if name not in troubled:
                log.warning("line %s: %s cannot be read (%s)", self.line, self.folder / name, reason)
            troubled[name] = reason

    def _tell(self) -> None:
        for name in self._files.vanished:
            log.warning("line %s: %s was removed before it was inspected", self.line, self.folder / name)
        self._files.vanished.clear()
        first = next(iter(self._files.troubled.items()), None)
        self.trouble = None
        if first is not None:
            count = len(self._files.troubled)
            self.trouble = f"folder {self.folder}: {count} waiting for another attempt, such as {first[0]} ({first[1]})"

    def _most_flying(self) -> int:
        """Files that are inspected at once: enough to keep the workers busy, with room in the queue for requests."""
        return max(1, min(2 * self._station.judge.workers, self._station.settings.limits.waiting // 2))
