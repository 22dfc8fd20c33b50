"""Options of commands that can run on a cluster."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from offnominal.cli.console import say
from offnominal.errors import SettingsError

if TYPE_CHECKING:
    from offnominal.cluster.workers import ClusterWorkers
    from offnominal.datasets import Pages
    from offnominal.detector import Detector
    from offnominal.images import Source
    from offnominal.inference import Inspect
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


def normal_of(cluster: str | None, data: str, pages: Pages) -> str | list[Source]:
    """The images of a fit or an audit; those of a bucket one by one. Notes are printed."""
    images: str | list[Source] = data
    if cluster is not None:
        from offnominal.cluster.fitting import good_images

        images = good_images(data, pages)
    if isinstance(images, str):
        from offnominal.datasets import find_normal

        for note in find_normal(images).notes:
            say(f"note: {note}")
    return images


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


@contextmanager
def labelled_on(
    cluster: str | None, data: str, pages: Pages, detector: Detector, model: Path, run_settings: dict[str, Any]
) -> Iterator[tuple[str, Inspect | None]]:
    """The labelled images on this machine, and what inspects them; None without a cluster."""
    if cluster is None:
        yield data, None
        return
    from offnominal.cluster.connection import connected
    from offnominal.cluster.evaluating import inspect_on, labelled_set

    with labelled_set(data, pages) as labelled, connected(cluster) as connection:
        yield labelled.path, inspect_on(connection, detector, model, labelled, run_settings)
