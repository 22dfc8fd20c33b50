"""How long each stage of a fit takes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from time import perf_counter


@dataclass
class Stopwatch:
    """Measures the seconds spent in each stage; repeated stages add up.

    Examples
    --------
    >>> stopwatch = Stopwatch()
    >>> with stopwatch.stage("features"):
    ...     pass
    >>> list(stopwatch.seconds)
    ['features']
    """

    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Add the duration of the block to a stage."""
        started = perf_counter()
        yield
        self.seconds[name] = self.seconds.get(name, 0.0) + perf_counter() - started
