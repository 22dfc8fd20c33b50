"""Suppress warnings of other libraries, safely across threads.

`warnings.catch_warnings` replaces the filters of the whole process. If two threads overlap, the first to leave restores the
warnings for the other, and the last may leave them suppressed forever.
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
    """Suppress all warnings inside; the filters are restored when the last thread leaves.

    Examples
    --------
    >>> with without_warnings():
    ...     warnings.warn("not shown", stacklevel=1)
    """
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
    """Reset in the child: another thread of the parent may have held the lock or been inside."""
    global _lock, _inside
    _lock = threading.Lock()
    if _inside:
        _inside = 0
        _filters.__exit__(None, None, None)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
