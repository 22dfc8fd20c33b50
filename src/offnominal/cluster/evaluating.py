"""Evaluate on a cluster: its workers inspect the images, this process computes the figures."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from offnominal.cluster.connection import Cluster, errors_of_workers
from offnominal.cluster.inspecting import load_content
from offnominal.cluster.places import BucketImage, Place, is_remote, require_one_page
from offnominal.datasets import MANIFESTS, Pages
from offnominal.detector import Detector
from offnominal.errors import ImageError, InputError
from offnominal.images import MeasuredImage, Source, measured
from offnominal.inference import Inspect
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


@dataclass(frozen=True)
class LabelledSet:
    """Labelled images on this machine, and in the bucket that they were copied from.

    Attributes
    ----------
    path
        Folder or manifest on this machine.
    bucket
        The folder in the bucket; None if the workers read the files at the same paths as this machine.
    """

    path: str
    bucket: Place | None = None

    def source(self, file: Source) -> Source:
        """Where the workers read a file of this machine."""
        if isinstance(file, MeasuredImage):
            return measured(self.source(file.image), file.mm_per_pixel)
        if not isinstance(file, Path):
            return file
        if self.bucket is None:
            return file.absolute()
        return BucketImage((self.bucket / file.relative_to(self.path).as_posix()).address)


@contextmanager
def labelled_set(data: str, pages: Pages = "one") -> Iterator[LabelledSet]:
    """The labelled images of an evaluation. An MVTec root in a bucket is copied to a temporary folder, without `train`.

    The copy is deleted when the context ends.

    Raises
    ------
    InputError
        The bucket cannot be read, or a manifest in it or `pages="all"` is given.
    """
    if not is_remote(data):
        yield LabelledSet(data)
        return
    require_one_page(data, pages)
    bucket = Place(data)
    if Path(bucket.name).suffix.lower() in MANIFESTS:
        raise InputError(
            f"{bucket.shown}: evaluate reads MVTec roots in buckets, but no manifests; copy the set to shared storage"
        )
    with tempfile.TemporaryDirectory(prefix="offnominal-") as folder:
        for file in bucket.walk():
            relative = PurePosixPath(file.shown[len(bucket.shown.rstrip("/")) + 1 :])
            if ".." in relative.parts:
                raise InputError(f"{file.shown}: has '..' in its name; rename it")
            if relative.parts[0].lower() == "train":
                continue
            target = Path(folder) / relative
            target.parent.mkdir(parents=True, exist_ok=True)
            with target.open("wb") as content:
                try:
                    file.copy_to(content)
                except ImageError:
                    content.truncate(0)  # the worker says what is wrong with it
        yield LabelledSet(folder, bucket)


def inspect_on(
    cluster: Cluster, detector: Detector, model: Path, labelled: LabelledSet, run_settings: dict[str, Any] | None = None
) -> Inspect:
    """A function for `Detector.evaluate` that inspects on a cluster.

    Parameters
    ----------
    cluster
        The cluster.
    detector
        The detector that was loaded from `model` with `run_settings`.
    model
        Model file on this machine.
    labelled
        The images.
    """
    import ray

    content = model.read_bytes()
    weights = None if detector.weights is None else detector.weights.read_bytes()

    def inspect(
        sources: Sequence[Source], failed: Callable[[int, ImageError], None], evidence: bool
    ) -> Iterator[tuple[int, Inspection]]:
        images = [labelled.source(source) for source in sources]
        tasks = [(first, images[first : first + CHUNK]) for first in range(0, len(images), CHUNK)]
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

    return inspect
