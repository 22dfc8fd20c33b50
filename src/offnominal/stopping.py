"""Stop signals of a command: Ctrl-C, SIGTERM and SIGHUP raise `KeyboardInterrupt`."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

#: Windows has no SIGHUP.
STOP_SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))
#: Handlers of a process that set none.
DEFAULT_HANDLERS = (signal.SIG_DFL, signal.default_int_handler)


@contextmanager
def stoppable() -> Iterator[None]:
    """Raise `KeyboardInterrupt` on stop signals inside; signals that the process ignores (`nohup`) stay ignored.

    A library may turn the interrupt into an error of its own, such as a failed import. After a signal, every error is therefore
    raised as `KeyboardInterrupt`.

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
    received: list[int] = []

    def interrupt(number: int, frame: FrameType | None) -> None:
        received.append(number)
        raise KeyboardInterrupt

    defaults = {number: handler for number in STOP_SIGNALS if (handler := signal.getsignal(number)) in DEFAULT_HANDLERS}
    for number in defaults:
        signal.signal(number, interrupt)
    try:
        yield
    except Exception as error:
        if received:
            raise KeyboardInterrupt from error
        raise
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
