"""The threads that inspect, one per core, and the one that stores results and answers.

A single image gives several cores too little to share, so each worker inspects images of its own with one thread. With a
model on a GPU it takes batches. What waits is bounded: beyond it, `submit` refuses. Inference does not wait for files and
rows: the finisher stores the results of several images in one transaction while the workers go on.
"""

from __future__ import annotations

import queue
import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from time import monotonic, perf_counter
from typing import Any

import torch

from offnominal.detector import Detector
from offnominal.errors import ImageError
from offnominal.images.arrays import Pixels
from offnominal.inference import worker_pool
from offnominal.monitoring.drift_monitor import DriftMonitor
from offnominal.station.errors import UnavailableError
from offnominal.station.folder import remove
from offnominal.types import Inspection as Result

#: Results per worker that wait for the finisher, and results that it stores in one transaction.
FINISHING, GROUP = 2, 32
#: Longest wait for a batch on a GPU.
BATCH_SECONDS = 0.005


@dataclass(frozen=True)
class Part:
    """A part to inspect: its image, received in full, and what is known about it."""

    line: str
    image: Path
    image_name: str
    image_sha256: str
    by: str
    source: str = "http"
    serial: str | None = None
    lot: str | None = None
    taken_at: datetime | None = None
    idempotency_key: str | None = None
    request_sha256: str | None = None


@dataclass(frozen=True)
class LoadedVersion:
    """A model version that is ready to inspect, with the drift monitor of its line."""

    line_id: int
    version_id: int
    digest: str
    detector: Detector
    monitor: DriftMonitor | None


@dataclass(frozen=True)
class Judged:
    """An inspected part; `result` and `pixels` are None if the image could not be read."""

    part: Part
    loaded: LoadedVersion
    result: Result | None
    pixels: Pixels | None
    error: ImageError | None
    duration_ms: float
    future: Future[Any] = field(default_factory=Future)


def accepted() -> Future[Any]:
    """The future of accepted work. It cannot be cancelled: a client that goes away does not stop what others wait for.

    Examples
    --------
    >>> accepted().cancel()
    False
    """
    future: Future[Any] = Future()
    future.set_running_or_notify_cancel()
    return future


@dataclass(frozen=True)
class _Waiting:
    line: str
    future: Future[Any]
    part: Part | None = None
    work: Callable[[Detector], Any] | None = None


class Judge:
    """Inspects parts with the loaded model version of their line.

    Parameters
    ----------
    store
        Stores results and returns, for each, the answer or the error of its future.
    waiting
        Largest number of parts that are not yet answered.
    """

    def __init__(self, store: Callable[[Sequence[Judged]], Sequence[Any]], waiting: int) -> None:
        self._store, self._waiting = store, waiting
        self._queue: deque[_Waiting] = deque()
        self._changed = threading.Condition()
        self._pending, self._closing = 0, False
        self._loaded: dict[str, LoadedVersion] = {}
        self.workers = torch.get_num_threads()
        self._judged: queue.Queue[Judged | None] = queue.Queue(FINISHING * self.workers)
        self._pool = worker_pool(self.workers)
        self._running = [self._pool.submit(self._work, number) for number in range(self.workers)]
        self._finisher = threading.Thread(target=self._finish, name="finisher")
        self._finisher.start()

    @property
    def pending(self) -> int:
        """Number of parts and jobs that are not yet answered."""
        return self._pending

    def loaded(self, line: str) -> LoadedVersion | None:
        """The model version in use on a line."""
        return self._loaded.get(line)

    def use(self, line: str, loaded: LoadedVersion | None) -> None:
        """Use a model version from the next image on; None stops the line. Images in progress finish with the old version."""
        with self._changed:
            if loaded is None:
                self._loaded.pop(line, None)
            else:
                self._loaded[line] = loaded

    def require_space(self) -> None:
        """Raise `UnavailableError` if the queue is full or the judge is closing."""
        if self._closing:
            raise UnavailableError("the station is stopping; try again later", retry_after=5)
        if self._pending >= self._waiting:
            raise UnavailableError(f"{self._pending} images wait already; try again later", retry_after=1)

    def submit(self, part: Part) -> Future[Any]:
        """Queue a part; the future has the answer of `store`. Raises `UnavailableError` if the queue is full."""
        return self._submit(_Waiting(part.line, accepted(), part=part))

    def call(self, line: str, work: Callable[[Detector], Any]) -> Future[Any]:
        """Queue work with the detector of a line, such as a receipt. Raises `UnavailableError` if the queue is full."""
        return self._submit(_Waiting(line, accepted(), work=work))

    def close(self) -> None:
        """Finish what was accepted, then end the threads."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        for running in self._running:
            running.result()
        self._pool.shutdown()
        self._judged.put(None)
        self._finisher.join()

    def _submit(self, waiting: _Waiting) -> Future[Any]:
        with self._changed:
            self.require_space()
            self._pending += 1
            self._queue.append(waiting)
            self._changed.notify()
        return waiting.future

    def _take(self, number: int) -> list[_Waiting]:
        """The next work of one line: a batch if its model runs on a GPU, otherwise one image."""
        with self._changed:
            while not self._queue and not self._closing:
                self._changed.wait()
            if not self._queue:
                return []
            batch = [self._queue.popleft()]
            loaded = self._loaded.get(batch[0].line)
            size = 1 if loaded is None or batch[0].part is None else _batch_size(loaded.detector)
            deadline = monotonic() + BATCH_SECONDS
            while len(batch) < size:
                more = next((one for one in self._queue if one.line == batch[0].line and one.part is not None), None)
                if more is not None:
                    self._queue.remove(more)
                    batch.append(more)
                elif self._closing or (left := deadline - monotonic()) <= 0:
                    break
                else:
                    self._changed.wait(left)
            return batch

    def _work(self, number: int) -> None:
        while batch := self._take(number):
            loaded = self._loaded.get(batch[0].line)
            left = dict(enumerate(batch))
            try:
                if loaded is None:
                    raise UnavailableError(f"line {batch[0].line} has no model that is ready", retry_after=5)
                if batch[0].work is not None:
                    answer = batch[0].work(loaded.detector)
                    self._answer(left.pop(0).future, answer)
                else:
                    self._inspect(left, loaded)
            except BaseException as error:  # noqa: BLE001 - belongs to the clients that wait; the worker goes on
                for one in left.values():
                    if one.part is not None:
                        remove(one.part.image)
                    self._answer(one.future, error)

    def _inspect(self, left: dict[int, _Waiting], loaded: LoadedVersion) -> None:
        """Inspect a batch; what is handed to the finisher leaves `left`."""
        parts = {index: one.part for index, one in left.items() if one.part is not None}
        unread: dict[int, ImageError] = {}
        started = perf_counter()

        def put(index: int, result: Result | None, pixels: Pixels | None, error: ImageError | None) -> None:
            duration, future = (perf_counter() - started) * 1000, left.pop(index).future
            self._judged.put(Judged(parts[index], loaded, result, pixels, error, duration, future))

        images = [part.image for part in parts.values()]
        for index, result, pixels in loaded.detector.inspect_with_pixels(images, failed=unread.__setitem__):
            put(index, result, pixels, None)
        for index, error in unread.items():
            put(index, None, None, error)
        assert not left

    def _finish(self) -> None:
        while (first := self._judged.get()) is not None:
            group, last = [first], False
            while len(group) < GROUP:
                try:
                    more = self._judged.get_nowait()
                except queue.Empty:
                    break
                if more is None:
                    last = True
                    break
                group.append(more)
            try:
                answers = self._store(group)
            except BaseException as error:  # noqa: BLE001 - belongs to the clients that wait; the finisher goes on
                answers = [error] * len(group)
            for judged, answer in zip(group, answers, strict=True):
                self._answer(judged.future, answer)
            if last:
                return

    def _answer(self, future: Future[Any], answer: Any) -> None:
        with self._changed:
            self._pending -= 1
        if isinstance(answer, BaseException):
            future.set_exception(answer)
        else:
            future.set_result(answer)


def _batch_size(detector: Detector) -> int:
    settings = detector.model.settings
    return settings.batch_size if settings.device == "cuda" else 1
