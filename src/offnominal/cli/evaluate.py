"""The command `evaluate`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from offnominal import errors
from offnominal.cli.cluster import cluster_option, labelled_on
from offnominal.cli.console import Console, emit, say, title_of
from offnominal.cli.options import (
    RUN_SETTINGS,
    Command,
    given_settings,
    json_option,
    model_argument,
    pages_option,
    path_option,
    weights_option,
)

if TYPE_CHECKING:
    from offnominal.datasets import Pages


@click.command(cls=Command, settings=RUN_SETTINGS, defaults_from_model=True)
@model_argument
@click.argument("data", help="MVTec root with test/, or a manifest with label (and mask).")
@path_option("--out", "Folder for metrics.json, scores.csv and report.html.", required=True)
@path_option("--plots", "Folder for the plots as PNG files.")
@click.option(
    "--evidence/--no-evidence",
    default=True,
    help="Include evidence for each region in the report (slightly slower). [default: yes]",
)
@cluster_option
@pages_option
@weights_option
@json_option
@click.pass_context
def evaluate(
    context: click.Context,
    model: Path,
    data: str,
    out: Path,
    plots: Path | None,
    evidence: bool,
    cluster: str | None,
    pages: Pages,
    weights: Path | None,
    as_json: bool,
) -> None:
    """Measure a model on labelled images."""
    from offnominal.datasets import find_labelled
    from offnominal.detector import load
    from offnominal.outputs.evaluations import begin_evaluation, write_evaluation

    begin_evaluation(out, plots)
    undrawn: list[str] = []
    detector = load(model, weights=weights, **given_settings(context))
    with labelled_on(cluster, data, pages, detector, model, given_settings(context)) as (images, inspect), Console() as console:
        for note in find_labelled(images).notes:
            say(f"note: {note}")
        result = detector.evaluate(images, evidence=evidence, observer=console, pages=pages, inspect=inspect)
        metrics = write_evaluation(detector.model, result, out, title_of(data), plots, undrawn.append)
    if as_json:
        emit(metrics)
    else:
        shown = {name: "-" if metrics[name] is None else f"{metrics[name]:.3f}" for name in ("image_auroc", "pixel_auroc")}
        say(f"{out / 'report.html'}: image AUROC {shown['image_auroc']}, pixel AUROC {shown['pixel_auroc']}")
        if result.without_mask:
            say(f"note: defective images without a readable mask: {result.without_mask}; pixel figures leave them out")
        if result.unlabelled:
            say(f"note: rows of {data} without a label: {result.unlabelled} (left out)")
    for reason in (*(reason for _, reason in result.unreadable), *undrawn):
        say(f"unreadable: {reason}")
    if result.unreadable or undrawn:
        raise click.exceptions.Exit(errors.SOME_UNREADABLE)
