"""Stop signals of a command: SIGTERM and SIGHUP raise `KeyboardInterrupt`, as Ctrl-C does."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

#: Windows has no SIGHUP.
STOP_SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))


@contextmanager
def stoppable() -> Iterator[None]:
    """Raise `KeyboardInterrupt` on SIGTERM and SIGHUP inside; signals that the process ignores (`nohup`) stay ignored.

    Examples
    --------
    >>> try:
    ...     with stoppable():
    ...         signal.raise_signal(signal.SIGTERM)
    ... except KeyboardInterrupt:
    ...     print("stopped")
    stopped
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    defaults = {number: signal.getsignal(number) for number in STOP_SIGNALS if signal.getsignal(number) is signal.SIG_DFL}
    for number in defaults:
        signal.signal(number, _interrupt)
    try:
        yield
    finally:
        for number, handler in defaults.items():
            signal.signal(number, handler)


@contextmanager
def delay_stop() -> Iterator[None]:
    """Delay stop signals to the end of the block, for work that must not be interrupted halfway.

    Examples
    --------
    >>> try:
    ...     with stoppable(), delay_stop():
    ...         signal.raise_signal(signal.SIGTERM)
    ...         print("finished")
    ... except KeyboardInterrupt:
    ...     print("stopped")
    finished
    stopped
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    received: list[int] = []
    handlers = {number: handler for number in STOP_SIGNALS if callable(handler := signal.getsignal(number))}
    for number in handlers:
        signal.signal(number, lambda signum, frame: received.append(signum))
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    if received:
        raise KeyboardInterrupt


def ignore_stop() -> None:
    """Ignore further stop signals, while a stopped process ends."""
    if threading.current_thread() is threading.main_thread():
        for number in STOP_SIGNALS:
            signal.signal(number, signal.SIG_IGN)


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt
