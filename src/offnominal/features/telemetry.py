"""Import a library without its telemetry.

OpenVINO reports every import and every translation of a network to its maker, unasked, from processes that it forks in threads
of its own. An inspection line sends nothing anywhere; and a fork stops the threads of the linear algebra that is at work in
another thread, which then waits for them for ever (seen: a fit that hung in the covariance of its features). A program that
imports OpenVINO before offnominal has decided for itself, and its reports stay as they are.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def without(package: str) -> Iterator[None]:
    """Inside, `package` cannot be imported, as if it were not installed; afterwards it can, so that others are not touched."""
    modules: dict[str, Any] = sys.modules
    there = package in modules
    before = modules.get(package)
    modules[package] = None
    try:
        yield
    finally:
        if there:
            modules[package] = before
        else:
            del modules[package]
