"""The command `audit`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from offnominal import errors
from offnominal.cli.cluster import cluster_option, normal_of, require_shards, shards_option, workers_of
from offnominal.cli.console import Console, emit, say
from offnominal.cli.options import (
    AUDIT_SETTINGS,
    Command,
    config_option,
    data_argument,
    detector_from,
    given_settings,
    json_option,
    pages_option,
    path_option,
    weights_option,
)

if TYPE_CHECKING:
    from offnominal.datasets import Pages
    from offnominal.images import Source


@click.command(cls=Command, settings=AUDIT_SETTINGS)
@data_argument
@path_option("--out", "Folder for audit.csv and pictures of the suspects.", required=True)
@cluster_option
@shards_option
@weights_option
@pages_option
@config_option
@json_option
@click.pass_context
def audit(
    context: click.Context,
    data: str,
    out: Path,
    cluster: str | None,
    shards: int | None,
    weights: Path | None,
    pages: Pages,
    config: Path | None,
    as_json: bool,
) -> None:
    """Find images among the good ones that differ from the others."""
    from offnominal.datasets import normal_images
    from offnominal.outputs.audits import begin_audit, write_audit

    require_shards(cluster, shards)
    options = given_settings(context)
    detector = detector_from(options, config, weights)
    images = normal_of(cluster, data, pages)
    sources: list[Source] = images if isinstance(images, list) else [item.path for item in normal_images(images, pages)]
    begin_audit(out)
    with Console() as console, workers_of(cluster, shards, detector, console) as workers:
        result = detector.audit(images, observer=console, pages=pages, workers=workers)
    share = detector.settings.contamination or (0.0 if "contamination" in options else "auto")
    undrawn: list[str] = []
    rows = write_audit(result, sources, out, share, undrawn.append, detector.settings.memory)
    suspects = sum(row["suspect"] for row in rows)
    if as_json:
        skipped = [{"image": name, "reason": reason} for name, reason in result.skipped]
        emit({"images": len(rows), "suspects": suspects, "rows": rows, "skipped": skipped})
    else:
        worst = f"; the worst: {rows[0]['path']} (score {rows[0]['score']:.2f})" if suspects else ""
        say(f"{out / 'audit.csv'}: {suspects} of {len(rows)} images are suspect{worst}")
    for reason in (*(reason for _, reason in result.skipped), *undrawn):
        say(f"unreadable: {reason}")
    if result.skipped or undrawn:
        raise click.exceptions.Exit(errors.SOME_UNREADABLE)
