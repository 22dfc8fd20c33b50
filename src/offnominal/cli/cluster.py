"""Options of commands that can run on a cluster."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import click

from offnominal.errors import SettingsError

if TYPE_CHECKING:
    from offnominal.cluster.workers import ClusterWorkers
    from offnominal.detector import Detector
    from offnominal.observer import Observer

cluster_option = click.option(
    "--cluster", help="Use a Ray cluster: HOST:PORT, or auto for the one of this machine or new local workers."
)
shards_option = click.option("--shards", type=int, help="With --cluster: parts of the images. [default: one for each worker]")


def require_shards(cluster: str | None, shards: int | None) -> None:
    """Raise `SettingsError` for shards without a cluster, or fewer than one."""
    if shards is not None and cluster is None:
        raise SettingsError("--shards needs --cluster; add --cluster auto, or remove --shards")
    if shards is not None and shards < 1:
        raise SettingsError(f"--shards {shards}: give at least 1")


@contextmanager
def workers_of(
    cluster: str | None, shards: int | None, detector: Detector, observer: Observer
) -> Iterator[ClusterWorkers | None]:
    """The workers of a fit or an audit; None without a cluster."""
    if cluster is None:
        yield None
        return
    from offnominal.cluster.fitting import workers_on

    with workers_on(cluster, detector, shards, observer) as workers:
        yield workers
