"""What a fit or an audit on a cluster needs: its workers, and the images of a bucket."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from offnominal.cluster.connection import connected
from offnominal.cluster.lists import entries_of
from offnominal.cluster.places import BucketImage, Place, is_remote
from offnominal.cluster.workers import ClusterWorkers
from offnominal.datasets import MANIFESTS, Item, Pages
from offnominal.datasets.manifests import require_no_defect_folder
from offnominal.detector import Detector
from offnominal.errors import InputError
from offnominal.images import Source
from offnominal.observer import Observer


@contextmanager
def workers_on(
    address: str, detector: Detector, shards: int | None, observer: Observer, *, worker_cpus: int | None = None
) -> Iterator[ClusterWorkers]:
    """Connect to a cluster; yields the workers for `Detector.fit` and `Detector.audit`.

    Parameters
    ----------
    address, worker_cpus
        As for `connected`.
    detector
        A detector with the settings of the fit.
    shards
        Number of parts of the images; None for one of each worker. With one, the model is that of a fit on one machine.
    observer
        Receives the progress.
    """
    weights = None if detector.weights is None else detector.weights.read_bytes()
    with connected(address, worker_cpus=worker_cpus) as cluster:
        yield ClusterWorkers(cluster, detector.settings, weights, observer, shards)


def good_images(data: str, pages: Pages = "one") -> str | list[Source]:
    """The images of a folder or glob in a bucket; data on this machine as an absolute path.

    Raises
    ------
    InputError
        The bucket holds no image there, a folder is named after a defect, `pages="all"` is given, or a manifest is given (its
        labels would be ignored).
    """
    if not is_remote(data):
        return str(Path(data).absolute())
    shown = Place(data).shown
    if Path(shown).suffix.lower() in MANIFESTS:
        raise InputError(f"{shown}: a fit on a bucket reads no manifests; give the folder of good images, or a glob of them")
    addresses = [entry.address for entry in entries_of(data, None, [], pages)]
    if not addresses:
        raise InputError(f"{shown}: contains no image")
    names = [Place(address).shown for address in addresses]
    require_no_defect_folder(shown, [Item(Path(name), name) for name in names])
    return [BucketImage(address) for address in addresses]
