"""Import a library without its telemetry.

OpenVINO reports every import and every conversion of a network to its maker, from processes that it forks in its own threads.
An inspection line must not send data. A fork also stops the threads of linear algebra that runs in another thread, which then
hangs. If a program imports OpenVINO before offnominal, its telemetry stays as it is.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def without(package: str) -> Iterator[None]:
    """Make `package` impossible to import within the context, as if it were not installed."""
    modules: dict[str, Any] = sys.modules
    imported = package in modules
    module = modules.get(package)
    modules[package] = None
    try:
        yield
    finally:
        if imported:
            modules[package] = module
        else:
            del modules[package]
