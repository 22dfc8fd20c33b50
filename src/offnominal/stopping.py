"""How a command is stopped: SIGTERM and SIGHUP raise `KeyboardInterrupt`, as Ctrl-C does, so that all three end alike."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

#: Windows has no SIGHUP.
SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))


@contextmanager
def stoppable() -> Iterator[None]:
    """Inside, SIGTERM and SIGHUP stop the work as Ctrl-C does; what the process was told to ignore (`nohup`) it ignores."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    taken = {number: signal.getsignal(number) for number in SIGNALS if signal.getsignal(number) is signal.SIG_DFL}
    for number in taken:
        signal.signal(number, _stop)
    try:
        yield
    finally:
        for number, before in taken.items():
            signal.signal(number, before)


@contextmanager
def unstopped() -> Iterator[None]:
    """Inside, a signal to stop waits for the end of the block: for what must not be left half done."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    waiting: list[int] = []
    before = {number: signal.getsignal(number) for number in SIGNALS}
    held = {number: handler for number, handler in before.items() if callable(handler)}
    for number in held:
        signal.signal(number, lambda signum, frame: waiting.append(signum))
    try:
        yield
    finally:
        for number, handler in held.items():
            signal.signal(number, handler)
    if waiting:
        raise KeyboardInterrupt


def stopped() -> None:
    """The process has been stopped and is about to end: another signal would only disturb that."""
    if threading.current_thread() is threading.main_thread():
        for number in SIGNALS:
            signal.signal(number, signal.SIG_IGN)


def _stop(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt
