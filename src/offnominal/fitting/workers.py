"""Where the work of a fit is done: in this process, or in others that implement the same protocols."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar

from offnominal.errors import ImageError
from offnominal.fitting.extraction import ShardTask
from offnominal.fitting.shard import Shard
from offnominal.images import Source
from offnominal.inference import FeatureEngine, Inspector
from offnominal.model import Model
from offnominal.observer import Observer

P = ParamSpec("P")
Item = TypeVar("Item")
Result = TypeVar("Result")


class Shards(Protocol):
    """The shards of a fit."""

    def each(self, method: Callable[Concatenate[Shard, P], Result], *args: P.args, **kwargs: P.kwargs) -> list[Result]:
        """Call a method of every shard with the same arguments."""

    def each_with(self, method: Callable[..., Result], arguments: Sequence[tuple[Any, ...]]) -> list[Result]:
        """Call a method of every shard, each with arguments of its own."""


class Workers(Protocol):
    """Processes that share the work of a fit.

    Attributes
    ----------
    shards
        Number of shards that the images are divided into.
    """

    shards: int

    def map(self, function: Callable[[Item], Result], items: Sequence[Item], stage: str) -> Iterator[Result]:
        """Apply a function of a module to many items; results come in their order."""

    def start(self, tasks: Sequence[ShardTask]) -> AbstractContextManager[Shards]:
        """Create shards, which exist until the context ends."""

    def scores(self, model: Model, sources: Sequence[Source]) -> list[float | str]:
        """Score of each image; for an unreadable image, the reason."""


class ThisProcess:
    """Does everything in this process, with one shard."""

    shards = 1

    def __init__(self, engines: Sequence[FeatureEngine], observer: Observer) -> None:
        self._engines, self._observer = engines, observer

    def map(self, function: Callable[[Item], Result], items: Sequence[Item], stage: str) -> Iterator[Result]:
        """Apply a function to many items."""
        for done, item in enumerate(items):
            self._observer.on_progress(stage, done, len(items))
            yield function(item)
        self._observer.on_progress(stage, len(items), len(items))

    @contextmanager
    def start(self, tasks: Sequence[ShardTask]) -> Iterator[Shards]:
        """Create the shard."""
        (task,) = tasks
        with Shard(task, self._engines, self._observer) as shard:
            yield _OneShard(shard)

    def scores(self, model: Model, sources: Sequence[Source]) -> list[float | str]:
        """Score of each image; for an unreadable image, the reason."""
        scores: dict[int, float | str] = {}

        def failed(index: int, error: ImageError) -> None:
            scores[index] = str(error)

        for index, inspection, _ in Inspector(model, self._engines).inspect(sources, failed):
            scores[index] = inspection.score
            self._observer.on_progress("calibration", len(scores), len(sources))
        self._observer.on_progress("calibration", len(sources), len(sources))
        return [scores[index] for index in range(len(sources))]


class _OneShard:
    def __init__(self, shard: Shard) -> None:
        self._shard = shard

    def each(self, method: Callable[Concatenate[Shard, P], Result], *args: P.args, **kwargs: P.kwargs) -> list[Result]:
        return [method(self._shard, *args, **kwargs)]

    def each_with(self, method: Callable[..., Result], arguments: Sequence[tuple[Any, ...]]) -> list[Result]:
        (of_shard,) = arguments
        return [method(self._shard, *of_shard)]
