"""Fit and audit on a cluster."""

from __future__ import annotations

from pathlib import Path

from offnominal.cluster.connection import Cluster
from offnominal.cluster.lists import addresses_of
from offnominal.cluster.places import BucketImage, is_remote
from offnominal.cluster.workers import ClusterWorkers
from offnominal.datasets import Pages
from offnominal.detector import Detector
from offnominal.fitting import Audit
from offnominal.images import Source
from offnominal.observer import SILENT, Observer


def fit_on_cluster(
    cluster: Cluster,
    detector: Detector,
    data: str,
    *,
    shards: int | None = None,
    pages: Pages = "one",
    observer: Observer = SILENT,
) -> Detector:
    """Fit a detector on the images of a folder or bucket, which all nodes can reach.

    Parameters
    ----------
    cluster
        The cluster.
    detector
        A detector with the settings of the fit.
    data
        As for `Detector.fit`, or a folder, glob or Parquet manifest of good images in a bucket.
    shards
        Number of parts of the images; by default one for each worker. With one, the model is that of a fit on one machine.
    observer
        Receives plan, progress and notes.
    """
    workers = _workers(cluster, detector, shards, observer)
    return detector.fit(_sources(data, observer), observer=observer, pages=pages, workers=workers)


def audit_on_cluster(
    cluster: Cluster,
    detector: Detector,
    data: str,
    *,
    shards: int | None = None,
    pages: Pages = "one",
    observer: Observer = SILENT,
) -> Audit:
    """Audit images on a cluster. Parameters are those of `fit_on_cluster`."""
    workers = _workers(cluster, detector, shards, observer)
    return detector.audit(_sources(data, observer), observer=observer, pages=pages, workers=workers)


def _workers(cluster: Cluster, detector: Detector, shards: int | None, observer: Observer) -> ClusterWorkers:
    content = None if detector.weights is None else detector.weights.read_bytes()
    return ClusterWorkers(cluster, detector.settings, content, observer, shards)


def _sources(data: str, observer: Observer) -> str | list[Source]:
    """Good images in a bucket; other data as given."""
    if not is_remote(data):
        return str(Path(data).absolute()) if Path(data).exists() else data
    notes: list[str] = []
    sources: list[Source] = [BucketImage(address) for address in addresses_of(data, None, notes, "one")]
    for note in notes:
        observer.on_note(note)
    return sources
