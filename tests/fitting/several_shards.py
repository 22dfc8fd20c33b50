"""Several shards in this process: the same divisions of a fit as on a cluster, without one."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

from offnominal.fitting.extraction import ShardTask
from offnominal.fitting.shard import Shard
from offnominal.fitting.workers import ThisProcess
from offnominal.inference import FeatureEngine
from offnominal.observer import SILENT


class SeveralShards(ThisProcess):
    """Workers of a fit with several shards, one after another in this process."""

    def __init__(self, engines: Sequence[FeatureEngine], shards: int) -> None:
        super().__init__(engines, SILENT)
        self.shards, self.tasks = shards, 0

    @contextmanager
    def start(self, tasks: Sequence[ShardTask]) -> Iterator[Any]:
        """Create the shards."""
        self.tasks = len(tasks)
        with ExitStack() as stack:
            yield _Shards([stack.enter_context(Shard(task, self._engines, SILENT)) for task in tasks])


class _Shards:
    def __init__(self, shards: Sequence[Shard]) -> None:
        self._shards = shards

    def each(self, method: Callable[..., Any], *args: Any, **kwargs: Any) -> list[Any]:
        return [method(shard, *args, **kwargs) for shard in self._shards]

    def each_with(self, method: Callable[..., Any], arguments: Sequence[tuple[Any, ...]]) -> list[Any]:
        return [method(shard, *of_shard) for shard, of_shard in zip(self._shards, arguments, strict=True)]
