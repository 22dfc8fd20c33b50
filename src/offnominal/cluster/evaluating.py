"""Evaluate on a cluster: its workers inspect the images, this process computes the figures."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from offnominal.cluster.connection import Cluster, errors_of_workers
from offnominal.cluster.inspecting import load_content
from offnominal.datasets import Pages
from offnominal.detector import Detector
from offnominal.errors import ImageError
from offnominal.images import Source
from offnominal.inference import Evaluation
from offnominal.observer import SILENT, Observer
from offnominal.types import Inspection

#: Images of one task. Their maps return through the object store, so there are few.
CHUNK = 16


class InspectingActor:
    """Inspects images in a worker. The networks are loaded once."""

    def __init__(self, model: bytes, weights: bytes | None, run_settings: dict[str, Any]) -> None:
        self._detector = load_content(model, weights, run_settings)

    def inspect(self, first: int, sources: Sequence[Source], evidence: bool) -> list[tuple[int, Inspection | str]]:
        """Number, and inspection or reason, of each image; `first` is the number of the first."""
        results: list[tuple[int, Inspection | str]] = []

        def failed(index: int, error: ImageError) -> None:
            results.append((first + index, str(error)))

        for index, inspection in self._detector.inspect_many(sources, failed=failed, evidence=evidence):
            results.append((first + index, inspection))
        return results


def evaluate_on_cluster(
    cluster: Cluster,
    detector: Detector,
    model: Path,
    data: str,
    *,
    run_settings: dict[str, Any] | None = None,
    evidence: bool = False,
    pages: Pages = "one",
    observer: Observer = SILENT,
) -> Evaluation:
    """Evaluate a model on labelled images that all nodes reach at the same paths.

    Parameters
    ----------
    cluster
        The cluster.
    detector
        The detector that was loaded from `model` with `run_settings`.
    model
        Model file on this machine.
    data
        As for `Detector.evaluate`.
    """
    import ray

    content = model.read_bytes()
    weights = None if detector.weights is None else detector.weights.read_bytes()

    def inspect(
        sources: Sequence[Source], failed: Callable[[int, ImageError], None], evidence: bool
    ) -> Iterator[tuple[int, Inspection]]:
        absolute = [source.absolute() if isinstance(source, Path) else source for source in sources]
        tasks = [(first, absolute[first : first + CHUNK]) for first in range(0, len(absolute), CHUNK)]
        actor: Any = ray.remote(num_cpus=cluster.worker_cpus, max_restarts=-1, max_task_retries=-1)(InspectingActor)
        shared = ray.put(content)
        actors = [actor.remote(shared, weights, run_settings or {}) for _ in range(min(cluster.workers, len(tasks)))]
        pool = ray.util.ActorPool(actors)
        try:
            with errors_of_workers():
                results = pool.map_unordered(lambda one, task: one.inspect.remote(*task, evidence), tasks)
                for index, result in (entry for of_task in results for entry in of_task):
                    if isinstance(result, str):
                        failed(index, ImageError(result))
                    else:
                        yield index, result
        finally:
            for one in actors:
                ray.kill(one)

    return detector.evaluate(data, evidence=evidence, observer=observer, pages=pages, inspect=inspect)
