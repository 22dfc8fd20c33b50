"""Warnings of other libraries, suppressed in several threads at once.

`warnings.catch_warnings` swaps the filters of the whole process: of two threads that overlap, the one that ends first brings
the warnings back for the other, and the last one may leave them suppressed for good.
"""

from __future__ import annotations

import os
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

_lock = threading.Lock()
_inside = 0
_filters = warnings.catch_warnings()


@contextmanager
def without_warnings() -> Iterator[None]:
    """No warning is shown or raised inside; the filters come back when the last thread has left."""
    global _inside, _filters
    with _lock:
        if _inside == 0:
            _filters = warnings.catch_warnings()
            _filters.__enter__()
            warnings.simplefilter("ignore")
        _inside += 1
    try:
        yield
    finally:
        with _lock:
            if _inside > 0:
                _inside -= 1
                if _inside == 0:
                    _filters.__exit__(None, None, None)


def _after_fork() -> None:
    """Another thread of the parent may have held the lock, or been inside."""
    global _lock, _inside
    _lock = threading.Lock()
    if _inside:
        _inside = 0
        _filters.__exit__(None, None, None)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
