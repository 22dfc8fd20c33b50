"""Shards of a fit in an actor of a cluster.

Ray restarts an actor that was lost and repeats its call. The new actor has no shards, so each call carries the earlier calls
that changed its shard (its journal), and the actor repeats those that it has not done. All of them are deterministic.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic
from typing import Any

from offnominal.config import Settings
from offnominal.errors import ImageError
from offnominal.fitting.extraction import ShardTask
from offnominal.fitting.shard import Shard
from offnominal.images import Source
from offnominal.inference import FeatureEngine, Inspector, member_engines
from offnominal.model import Model
from offnominal.observer import Observer

#: Seconds between two reports of progress.
PAUSE = 0.5
#: Methods that change a shard.
CHANGING = frozenset({"extract", "standardise", "keep", "hold_out", "leave_one_out", "fold"})
#: A call of a shard: the name of the method, and a reference to its arguments.
Call = tuple[str, Any]


@dataclass
class _Hosted:
    """A shard in this process, the number of changing calls that it has done, and the result of the last."""

    shard: Shard
    done: int = 0
    last: Any = None


@dataclass(repr=False)
class ShardHost:
    """Holds some shards in one process, with one set of networks.

    Parameters
    ----------
    settings
        Settings of the fit.
    weights
        Content of the weights file, if the backbone needs one.
    progress
        Actor that receives the progress; None for none.
    """

    settings: Settings
    weights: bytes | None = None
    progress: Any = None
    _engines: Sequence[FeatureEngine] | None = None
    _shards: dict[int, _Hosted] = field(default_factory=dict)
    _stack: ExitStack = field(default_factory=ExitStack)

    def call(self, number: int, task: ShardTask, journal: Sequence[Call], call: Call) -> Any:
        """Call a method of a shard, after the calls of its journal."""
        import ray

        if number not in self._shards:
            shard = Shard(task, self._networks(), _Reports(self.progress, f"shard {number}"))
            self._shards[number] = _Hosted(self._stack.enter_context(shard))
        hosted = self._shards[number]
        if hosted.done > len(journal):  # the result of this call was lost on its way
            return hosted.last
        result = None
        for name, arguments in [*journal[hosted.done :], call]:
            result = getattr(hosted.shard, name)(*ray.get(arguments))
            if name in CHANGING:
                hosted.done, hosted.last = hosted.done + 1, result
        return result

    def scores(self, model: Model, sources: Sequence[Source]) -> list[float | str]:
        """Score of each image; for an unreadable image, the reason."""
        scores: dict[int, float | str] = {}

        def failed(index: int, error: ImageError) -> None:
            scores[index] = str(error)

        for index, inspection, _ in Inspector(model, self._networks()).inspect(sources, failed):
            scores[index] = inspection.score
        return [scores[index] for index in range(len(sources))]

    def close(self) -> None:
        """Delete the patches of all shards."""
        self._shards.clear()
        self._stack.close()

    def _networks(self) -> Sequence[FeatureEngine]:
        if self._engines is None:
            with weights_file(self.weights) as path:
                self._engines = member_engines(self.settings, path)
        return self._engines


class Progress:
    """Collects how far the shards are, for the terminal of the driver."""

    def __init__(self) -> None:
        self._stages: dict[str, dict[str, tuple[int, int]]] = {}

    def report(self, shard: str, stage: str, done: int, total: int) -> None:
        """Record how far a shard is."""
        self._stages.setdefault(stage, {})[shard] = done, total

    def news(self) -> dict[str, tuple[int, int]]:
        """How much is done, and the total, of each stage; finished stages are given once."""
        stages = {stage: list(shards.values()) for stage, shards in self._stages.items()}
        news = {stage: (sum(done for done, _ in of), sum(total for _, total in of)) for stage, of in stages.items()}
        self._stages = {stage: shards for stage, shards in self._stages.items() if news[stage][0] < news[stage][1]}
        return news


class _Reports(Observer):
    """Sends the progress of a shard to the driver, at most every `PAUSE` seconds."""

    def __init__(self, progress: Any, shard: str) -> None:
        self._progress, self._shard, self._next = progress, shard, 0.0

    def on_progress(self, stage: str, done: int, total: int) -> None:
        """Send the progress on."""
        if self._progress is not None and (monotonic() >= self._next or done >= total):
            self._next = monotonic() + PAUSE
            self._progress.report.remote(self._shard, stage, done, total)


@contextmanager
def weights_file(content: bytes | None) -> Iterator[Path | None]:
    """A file with the content of a weights file; None without one."""
    if content is None:
        yield None
        return
    with tempfile.NamedTemporaryFile(prefix="offnominal-") as file:
        file.write(content)
        file.flush()
        yield Path(file.name)
