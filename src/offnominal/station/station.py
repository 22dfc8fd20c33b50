"""A station: its folder, database, lines, and the threads that inspect and look after it."""

from __future__ import annotations

import logging
import os
import shutil
import threading
from collections.abc import Sequence
from concurrent.futures import Future
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import numpy as np

from offnominal.detector import load
from offnominal.errors import InputError, ModelFileError, OffnominalError, reason_of
from offnominal.station import drift, events, inspections, lines, media, migrate
from offnominal.station.database import Database, sqlite_url
from offnominal.station.errors import NotFoundError, UnavailableError
from offnominal.station.feed import Feed
from offnominal.station.folder import StationFolder, remove
from offnominal.station.folders.watch import Watch
from offnominal.station.judge import Judge, Judged, LoadedVersion, Part, accepted
from offnominal.station.metrics import Metrics
from offnominal.station.settings import StationSettings, read_station_settings
from offnominal.station.tables import Inspection, Line, ModelVersion
from offnominal.station.teach import Teacher

log = logging.getLogger(__name__)
#: Seconds between two looks at the database, the disk and lines without a model, and between two prunings.
LOOK_AFTER, PRUNE = 2.0, 300.0


class Station:
    """Runs a station. Use as a context manager; one process at a time.

    Parameters
    ----------
    root
        The folder of the station.

    Raises
    ------
    InputError
        The folder is not a station.
    ConflictError
        Another process runs it.

    Examples
    --------
    >>> with Station(Path("station")) as station:  # doctest: +SKIP
    ...     station.problems()
    []
    """

    def __init__(self, root: Path) -> None:
        self.folder = StationFolder(root)
        self.folder.require()
        self.settings: StationSettings = read_station_settings(self.folder.config)
        self.database = Database(self.settings.database or sqlite_url(self.folder.root))
        self.feed, self.metrics = Feed(), Metrics()
        self._line_problems: dict[str, str] = {}
        self._unsettled: list[Inspection] = []
        self._started, self._stop = False, threading.Event()
        self._in_flight: dict[tuple[str, str], tuple[str | None, Future[Any]]] = {}
        self._in_flight_lock, self._activating = threading.Lock(), threading.RLock()
        self._closing, self._watch = ExitStack(), Watch(self)

    def __enter__(self) -> Station:
        with ExitStack() as opened:  # closes what was opened if a step fails
            opened.enter_context(self.folder.locked())
            self.folder.clear_incoming()
            opened.callback(self.database.close)
            opened.callback(self._settle)
            self.judge = Judge(self._store, self.settings.limits.waiting)
            opened.callback(self.judge.close)
            self.teacher = Teacher(self.database, self.folder, self.settings.replay, self.feed.notify)
            opened.callback(self.teacher.close)
            self._start_if_possible()
            self._closing = opened.pop_all()
        self._keeper = threading.Thread(target=self._look_after, name="keeper")
        self._keeper.start()
        self._watch.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._stop.set()
        self._watch.stop()
        self._keeper.join()
        self._closing.close()

    def problems(self) -> list[str]:
        """Why the station cannot inspect, one sentence each; empty if it can."""
        problems = [problem] if (problem := self.database.check()) else []
        if (full := media.disk_problem(self.folder, self.settings.keep)) is not None:
            problems.append(full)
        if not self._started and not problems:
            problems.append("the station is starting")
        problems += [f"line {line}: {problem}" for line, problem in sorted(self._line_problems.items())]
        return problems + self._watch.problems()

    @property
    def started(self) -> bool:
        """Whether the database has been ready since the station runs."""
        return self._started

    @property
    def stopping(self) -> bool:
        """Whether the station is about to stop, so that streams end."""
        return self._stop.is_set()

    def stop_streams(self) -> None:
        """End the streams of events, so that a server can stop; what was accepted is still answered."""
        self._stop.set()
        self.feed.notify()

    def line_problem(self, line: str) -> str | None:
        """Why a line cannot inspect although a model is active, or what is wrong with its folders; None if all is well."""
        return self._line_problems.get(line) or self._watch.problem(line)

    def inspect(self, part: Part) -> Future[dict[str, Any]]:
        """Inspect a part and store it. The future has its public form, or the error.

        A part with the idempotency key of an earlier one gives the answer of that one.

        Raises
        ------
        InputError
            The key belongs to another request.
        NotFoundError
            The line does not exist.
        UnavailableError
            The queue or the disk is full, the database is away, or the line has no model that is ready.
        """
        consumed = False
        try:
            if self.judge.loaded(part.line) is None:
                self._require_line(part.line)
            if (full := media.disk_problem(self.folder, self.settings.keep)) is not None:
                raise UnavailableError(full, retry_after=30)
            if part.idempotency_key is None:
                future = self.judge.submit(part)
                consumed = True
                return future
            future, consumed = self._inspect_once(part, part.idempotency_key)
            return future
        finally:
            if not consumed:
                remove(part.image)

    def activate(self, line: str, digest: str, by: str) -> ModelVersion:
        """Load a model version and use it from the next image on. The version in use stays if the file is broken."""
        with self._activating:
            with self.database.read() as session:
                of = lines.line_named(session, line)
                version = lines.version_of(session, of, digest)
            self._switch(of, version, by, rollback=False)
            return version

    def roll_back(self, line: str, by: str) -> ModelVersion:
        """Return to the model version that was active before the current one."""
        with self._activating:
            with self.database.read() as session:
                of = lines.line_named(session, line)
                version = lines.rollback_target(session, of)
            self._switch(of, version, by, rollback=True)
            return version

    def reset_drift(self, line: str, by: str) -> None:
        """Start the drift monitor of a line anew."""
        with self._activating:
            with self.database.write() as session:
                lines.line_named(session, line)
                events.append(session, drift.RESET, line, by, {}, line)
            self._load_line(line)
        self.feed.notify()

    def drift(self, line: str) -> dict[str, Any]:
        """State of the drift monitor of a line."""
        loaded = self.judge.loaded(line)
        return drift.public_drift(None if loaded is None else loaded.monitor)

    def require_space(self) -> None:
        """Raise `UnavailableError` if no image can be accepted now; called before a request is read."""
        self.judge.require_space()

    def load_lines(self) -> None:
        """Load the active versions of all lines that have none in use."""
        with self.database.read() as session:
            names = [entry.line.name for entry in lines.all_lines(session) if entry.version is not None]
        for name in names:
            if self.judge.loaded(name) is None:
                self._load_line(name)

    def _require_line(self, name: str) -> None:
        with self.database.read() as session:
            lines.line_named(session, name)
        problem = self._line_problems.get(name, "no model is active; upload one and activate it")
        raise UnavailableError(f"line {name}: {problem}", retry_after=5)

    def _inspect_once(self, part: Part, key: str) -> tuple[Future[dict[str, Any]], bool]:
        mine: Future[dict[str, Any]] = accepted()
        with self._in_flight_lock:
            digest, future = self._in_flight.setdefault((part.line, key), (part.request_sha256, mine))
        if future is not mine:
            _require_same(key, digest, part.request_sha256)
            return future, False
        try:
            with self.database.read() as session:
                of = lines.line_named(session, part.line)
                found = session.execute(
                    inspections.joined().where(Inspection.line_id == of.id, Inspection.idempotency_key == key)
                ).first()
            if found is not None:
                row, line, model = found
                _require_same(key, row.request_sha256, part.request_sha256)
                self._end_flight(part.line, key)
                mine.set_result(inspections.public(row, line, model))
                return mine, False
            judged = self.judge.submit(part)
        except BaseException as error:
            self._end_flight(part.line, key)
            if not mine.done():
                mine.set_exception(error)
            raise

        def done(future: Future[Any]) -> None:
            self._end_flight(part.line, key)
            if (error := future.exception()) is not None:
                mine.set_exception(error)
            else:
                mine.set_result(future.result())

        judged.add_done_callback(done)
        return mine, True

    def _end_flight(self, line: str, key: str) -> None:
        with self._in_flight_lock:
            self._in_flight.pop((line, key), None)

    def _store(self, group: Sequence[Judged]) -> Sequence[Any]:
        answers = inspections.store(self.database, self.folder, group, self._unsettled)
        for judged, answer in zip(group, answers, strict=True):
            if isinstance(answer, BaseException):
                self.metrics.refused.labels(type(answer).__name__).inc()
                continue
            self.metrics.inspections.labels(judged.part.line, answer["verdict"]).inc()
            self.metrics.duration.labels(judged.part.line).observe(judged.duration_ms / 1000)
            if judged.loaded.monitor is not None and judged.result is not None:
                name = judged.part.serial or judged.part.image_name
                judged.loaded.monitor.update([name], np.stack([judged.result.appearance]))
        self.feed.notify()
        return answers

    def _switch(self, line: Line, version: ModelVersion, by: str, *, rollback: bool) -> None:
        loaded = self._loaded(line, version)
        with self.database.write() as session:
            lines.activate(session, lines.line_named(session, line.name), version, by, rollback=rollback)
        self._line_problems.pop(line.name, None)
        self.judge.use(line.name, loaded)
        self.feed.notify()

    def _loaded(self, line: Line, version: ModelVersion) -> LoadedVersion:
        try:
            detector = load(self.folder.model(version.digest))
        except ModelFileError as error:  # all see it in /readyz, so without the station's place on the disk
            raise ModelFileError(str(error).replace(f"{self.folder.root}{os.sep}", "")) from None
        with self.database.read() as session:
            monitor = drift.monitor_of(session, line, version, detector)
        return LoadedVersion(line.id, version.id, version.digest, detector, monitor)

    def _load_line(self, name: str) -> None:
        with self._activating:
            with self.database.read() as session:
                line = lines.line_named(session, name)
                version = lines.active(session, line)
            if version is None:
                raise NotFoundError(f"line {name}: no model is active")
            try:
                self.judge.use(name, self._loaded(line, version))
                self._line_problems.pop(name, None)
            except UnavailableError:
                raise
            except (OffnominalError, OSError) as error:
                self._line_problems[name] = f"the active model cannot be loaded ({reason_of(error)})"

    def _settle(self) -> None:
        with suppress(UnavailableError):  # the next start removes what is left
            inspections.settle(self.database, self.folder, self._unsettled)

    def _start_if_possible(self) -> None:
        try:
            migrate.upgrade(self.database, self.folder)
            with self.database.read() as session:
                for id in media.remove_orphans(session, self.folder):
                    log.info("removed the files of %s, which had not been answered", id)
            self.teacher.fail_interrupted()
            self.load_lines()
            self._started = True
        except UnavailableError as error:
            log.warning("%s", error)

    def _look_after(self) -> None:
        """Until the station stops: start once the database is there, reload lines, prune, refresh the metrics."""
        waited = PRUNE
        while not self._stop.wait(LOOK_AFTER):
            try:
                if not self._started:
                    self._start_if_possible()
                else:
                    inspections.settle(self.database, self.folder, self._unsettled)
                    self.load_lines()
                    waited += LOOK_AFTER
                    if waited >= PRUNE or media.disk_problem(self.folder, self.settings.keep) is not None:
                        waited = 0.0
                        media.prune(self.database, self.folder, self.settings.keep)
                self.metrics.disk_free.set(shutil.disk_usage(self.folder.media).free)
            except UnavailableError as error:
                log.warning("%s", error)
            except Exception:  # the keeper must outlive whatever happens in one round
                log.exception("maintenance failed; it is tried again")


def _require_same(key: str, one: str | None, other: str | None) -> None:
    if one != other:
        raise InputError(f"Idempotency-Key {key[:40]!r}: was used for another request; use a new key")
