"""The workers of a fit on a cluster: an implementation of `fitting.workers.Workers`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, Concatenate, ParamSpec, TypeVar

from offnominal.cluster.connection import Cluster, errors_of_workers
from offnominal.cluster.shard_host import CHANGING, PAUSE, Call, Progress, ShardHost
from offnominal.config import Settings
from offnominal.fitting.extraction import ShardTask
from offnominal.fitting.shard import Shard
from offnominal.fitting.workers import Shards
from offnominal.images import Source
from offnominal.model import Model
from offnominal.observer import Observer

P = ParamSpec("P")
Item = TypeVar("Item")
Result = TypeVar("Result")
#: Items of a survey that one task processes.
CHUNK = 256


class ClusterWorkers:
    """Actors and tasks on a cluster.

    Parameters
    ----------
    cluster
        The cluster.
    settings
        Settings of the fit.
    weights
        Content of the weights file, if the backbone needs one.
    shards
        Number of shards; by default one for each worker.
    observer
        Receives the progress.
    """

    def __init__(
        self, cluster: Cluster, settings: Settings, weights: bytes | None, observer: Observer, shards: int | None = None
    ) -> None:
        self.shards = shards or cluster.workers
        self._cluster, self._settings, self._observer = cluster, settings, observer
        self._weights = weights

    def map(self, function: Callable[[Item], Result], items: Sequence[Item], stage: str) -> Iterator[Result]:
        """Apply a function of a module to many items, in tasks; results come in their order."""
        import ray

        task: Any = ray.remote(num_cpus=1, max_retries=-1)(_apply)
        waiting = [task.remote(function, items[first : first + CHUNK]) for first in range(0, len(items), CHUNK)]
        done = 0
        self._observer.on_progress(stage, done, len(items))
        with errors_of_workers():
            for results in waiting:
                for result in ray.get(results):
                    yield result
                    done += 1
                self._observer.on_progress(stage, done, len(items))

    @contextmanager
    def start(self, tasks: Sequence[ShardTask]) -> Iterator[Shards]:
        """Create the shards in actors."""
        import ray

        progress = ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=-1)(Progress).remote()
        hosts = self._hosts(min(len(tasks), self._cluster.workers), progress)
        shards = _ActorShards(hosts, tasks, progress, self._observer)
        try:
            yield shards
        finally:
            shards.stop()

    def scores(self, model: Model, sources: Sequence[Source]) -> list[float | str]:
        """Score of each image; for an unreadable image, the reason."""
        import ray

        parts = [sources[first : first + CHUNK] for first in range(0, len(sources), CHUNK)]
        hosts, shared = self._hosts(min(len(parts), self._cluster.workers), None), ray.put(model)
        scores: list[float | str] = []
        try:
            with errors_of_workers():
                for result in [hosts[at % len(hosts)].scores.remote(shared, part) for at, part in enumerate(parts)]:
                    scores += ray.get(result)
                    self._observer.on_progress("calibration", len(scores), len(sources))
        finally:
            for host in hosts:
                ray.kill(host)
        return scores

    def _hosts(self, number: int, progress: Any) -> list[Any]:
        import ray

        host = ray.remote(num_cpus=self._cluster.worker_cpus, max_restarts=-1, max_task_retries=-1)(ShardHost)
        return [host.remote(self._settings, self._weights, progress) for _ in range(number)]


class _ActorShards:
    """Shards in actors, and the journal of each."""

    def __init__(self, hosts: Sequence[Any], tasks: Sequence[ShardTask], progress: Any, observer: Observer) -> None:
        import ray

        self._hosts, self._progress, self._observer = hosts, progress, observer
        self._tasks = [ray.put(task) for task in tasks]
        self._journals: list[list[Call]] = [[] for _ in tasks]

    def each(self, method: Callable[Concatenate[Shard, P], Result], *args: P.args, **kwargs: P.kwargs) -> list[Result]:
        """Call a method of every shard with the same arguments."""
        import ray

        assert not kwargs
        return self._called(method.__name__, [ray.put(args)] * len(self._tasks))

    def each_with(self, method: Callable[..., Result], arguments: Sequence[tuple[Any, ...]]) -> list[Result]:
        """Call a method of every shard, each with arguments of its own."""
        import ray

        return self._called(method.__name__, [ray.put(of_shard) for of_shard in arguments])

    def stop(self) -> None:
        """End the actors."""
        import ray

        for actor in (*self._hosts, self._progress):
            ray.kill(actor)

    def _called(self, name: str, arguments: Sequence[Any]) -> list[Any]:
        import ray

        waiting = []
        for number, (task, journal, of_shard) in enumerate(zip(self._tasks, self._journals, arguments, strict=True)):
            host = self._hosts[number % len(self._hosts)]
            waiting.append(host.call.remote(number, task, list(journal), (name, of_shard)))
        unfinished = list(waiting)
        while unfinished:
            _, unfinished = ray.wait(unfinished, num_returns=len(unfinished), timeout=PAUSE)
            with suppress(ray.exceptions.RayActorError, ray.exceptions.GetTimeoutError):  # lost with its node
                for stage, (done, total) in ray.get(self._progress.news.remote(), timeout=PAUSE).items():
                    self._observer.on_progress(stage, done, total)
        with errors_of_workers():
            results = ray.get(waiting)
        if name in CHANGING:
            for journal, of_shard in zip(self._journals, arguments, strict=True):
                journal.append((name, of_shard))
        return results


def _apply(function: Callable[[Item], Result], items: Sequence[Item]) -> list[Result]:
    return [function(item) for item in items]
