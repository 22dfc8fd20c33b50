"""The command `update`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from offnominal import errors
from offnominal.cli.console import Console, emit, say
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
@click.option("--add", multiple=True, help="Good images to add: a folder, image, glob or manifest; may be repeated.")
@click.option("--remove", multiple=True, help="Name of an image to remove; may be repeated.")
@path_option("--out", "Model file to write. [default: the same file]")
@pages_option
@weights_option
@json_option
@click.pass_context
def update(
    context: click.Context,
    model: Path,
    add: tuple[str, ...],
    remove: tuple[str, ...],
    out: Path | None,
    pages: Pages,
    weights: Path | None,
    as_json: bool,
) -> None:
    """Add good images to a model, or remove some."""
    from offnominal.datasets import manifest_notes
    from offnominal.detector import load
    from offnominal.outputs.model_facts import facts, warnings_of

    detector = load(model, weights=weights, **given_settings(context))
    for given in add or ():
        for note in manifest_notes(given):
            say(f"note: {note}")
    before = detector.model.calibration
    with Console() as console:
        change = detector.update(add=add or (), remove=remove or (), observer=console, pages=pages)
    target = out or model
    detector.save(target)
    after = detector.model.calibration
    for warning in warnings_of(detector.model):
        say(f"note: {warning}")
    if as_json:
        skipped = [{"image": name, "reason": reason} for name, reason in change.skipped]
        changed = {
            "added": list(change.added),
            "removed": list(change.removed),
            "skipped": skipped,
            "patches_added": change.patches_added,
            "patches_removed": change.patches_removed,
            "threshold_before": before.threshold,
        }
        emit({"update": changed, **facts(detector.model), "model": str(target)})
    else:
        say(
            f"{target}: {len(change.added)} images added, {len(change.removed)} removed; {after.count} calibrate "
            f"(before: {before.count}), threshold {after.threshold:.3f} (before: {before.threshold:.3f}) at {after.rate:.2%} "
            "false alarms"
        )
    for _, reason in change.skipped:
        say(f"unreadable: {reason}")
    if change.skipped:
        raise click.exceptions.Exit(errors.SOME_UNREADABLE)
