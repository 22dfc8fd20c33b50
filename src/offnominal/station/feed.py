"""Wakes the streams of server-sent events when the event log has grown."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress


class Feed:
    """Notifies waiting coroutines from any thread. The streams read what is new from the event log themselves."""

    def __init__(self) -> None:
        self._lock = threading.RLock()  # a signal handler notifies, perhaps while its thread is in `listen`
        self._listeners: dict[asyncio.Event, asyncio.AbstractEventLoop] = {}

    def notify(self) -> None:
        """Wake all listeners."""
        with self._lock:
            listeners = list(self._listeners.items())
        for wake, loop in listeners:
            with suppress(RuntimeError):  # its loop has been closed
                loop.call_soon_threadsafe(wake.set)

    @property
    def listeners(self) -> int:
        """Number of coroutines that listen."""
        return len(self._listeners)

    @contextmanager
    def listen(self) -> Iterator[asyncio.Event]:
        """An event that is set after each notification; the listener clears it."""
        wake = asyncio.Event()
        with self._lock:
            self._listeners[wake] = asyncio.get_running_loop()
        try:
            yield wake
        finally:
            with self._lock:
                del self._listeners[wake]
