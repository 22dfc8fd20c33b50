"""The command `inspect`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import click
from click.core import ParameterSource

from offnominal import errors
from offnominal.cli.cluster import cluster_option
from offnominal.cli.console import Console, emit, say, title_of
from offnominal.cli.options import (
    RUN_SETTINGS,
    Command,
    given_settings,
    json_option,
    model_argument,
    pages_option,
    weights_option,
)

if TYPE_CHECKING:
    from offnominal.datasets import Pages
    from offnominal.outputs.inspections import InspectionRun
    from offnominal.outputs.optional_outputs import Extras


@click.command(cls=Command, settings=RUN_SETTINGS, defaults_from_model=True)
@model_argument
@click.argument(
    "inputs", help="Images, folders, globs in quotes, manifests, or an MVTec root (its test images).", nargs=-1, required=True
)
@click.option("--out", required=True, help="Folder for results.jsonl, overlays and other outputs; with --cluster also s3://...")
@click.option("--report", is_flag=True, help="Write report.html too, a page that needs no network.")
@click.option("--fail-on-anomaly", is_flag=True, help="Exit with 3 if an image is anomalous, even if some cannot be read.")
@click.option(
    "--evidence/--no-evidence",
    default=None,
    help="Include evidence for each region in results.jsonl (slightly slower). [default: with --report]",
)
@click.option("--receipts", is_flag=True, help="Write the evidence as a picture of each flagged image to receipts/.")
@click.option("--maps", help="Maps to write, comma-separated: anomaly, influence, noise, layers. [default: none]")
@click.option("--map-format", help="png (8-bit), tiff (16-bit) or npy (float32). [default: png]")
@click.option("--masks", help="Masks of the regions: png (masks/), coco (masks.json), or png,coco. [default: none]")
@click.option("--lot", is_flag=True, help="Judge all images as one lot; lot.json lists the parts to pull.")
@click.option(
    "--fdr",
    type=float,
    help="With --lot: share of good parts among those pulled, on average over lots. [default: 0.1]",
)
@click.option("--no-drift", is_flag=True, help="Do not monitor drift.")
@click.option("--reset-drift", is_flag=True, help="Start drift monitoring anew (MODEL.drift.json is deleted).")
@click.option(
    "--false-warning-rate",
    type=float,
    default=0.01,
    help="Probability that the drift monitor ever warns if nothing changes. [default: 0.01]",
)
@cluster_option
@pages_option
@weights_option
@json_option
@click.pass_context
def inspect(
    context: click.Context,
    model: Path,
    inputs: tuple[str, ...],
    out: str,
    report: bool,
    fail_on_anomaly: bool,
    evidence: bool | None,
    receipts: bool,
    maps: str | None,
    map_format: str | None,
    masks: str | None,
    lot: bool,
    fdr: float | None,
    no_drift: bool,
    reset_drift: bool,
    false_warning_rate: float,
    cluster: str | None,
    pages: Pages,
    weights: Path | None,
    as_json: bool,
) -> None:
    """Detect and localise anomalies in images."""
    from offnominal.datasets import RUN_FOLDERS, find_any, in_pages
    from offnominal.detector import load
    from offnominal.monitoring.drift_monitor import DriftMonitor, report_drift, state_path
    from offnominal.outputs.inspections import image_level_notes, write_inspections
    from offnominal.outputs.lot import require_lot, write_lot
    from offnominal.outputs.optional_outputs import extras_from

    if fdr is not None and not lot:
        raise errors.SettingsError("--fdr needs --lot; add --lot or remove --fdr")
    if cluster is not None:
        given = {"--report": report, "--evidence": evidence, "--receipts": receipts, "--masks": masks, "--lot": lot}
        rate_given = context.get_parameter_source("false_warning_rate") is ParameterSource.COMMANDLINE
        given |= {"--reset-drift": reset_drift, "--false-warning-rate": rate_given}
        run = _on_cluster(context, cluster, model, inputs, out, extras_from(None, maps, map_format), pages, weights, given)
        if as_json:
            emit({"out": out, "done": run.done, "anomalous": run.anomalous, "unreadable": run.unreadable})
        else:
            say(f"{out}: {run.done} inspected, {run.anomalous} off-nominal, {run.unreadable} unreadable")
        _exit(run, fail_on_anomaly)
        return
    if "://" in out:
        raise errors.SettingsError(f"--out {out}: only a run with --cluster can write to a bucket")
    folder = Path(out)
    fdr = 0.1 if fdr is None else fdr
    evidence = True if evidence is None and report else evidence
    extras = extras_from(evidence, maps, map_format, masks, receipts)
    found = find_any(inputs, leave_out=[folder / name for name in RUN_FOLDERS])
    items = in_pages(found.items, pages)
    for note in found.notes:
        say(f"note: {note}")
    detector = load(model, weights=weights, **given_settings(context))
    calibration = detector.model.calibration
    if lot:
        require_lot(calibration, fdr)
    monitor = None
    if not no_drift and detector.model.appearance is not None:
        monitor = DriftMonitor(detector.model, state_path(model), false_warning_rate, reset=reset_drift)
    with Console() as console:
        run, rows = write_inspections(
            detector, items, folder, extras, monitor, report=title_of(inputs[0]) if report else None, observer=console
        )
    if not no_drift:
        for line in report_drift(monitor, folder):
            if run.done:
                say(line)
    if lot:
        judged = write_lot(rows, calibration, fdr, folder)
        say(f"lot of {judged['images']}: {len(judged['flagged'])} to pull, about {judged['estimated_bad']:.0f} bad in all")
        for path in judged["flagged"]:
            say(f"pull: {path}")
        if judged["note"]:
            say(f"note: {judged['note']}")
    if as_json:
        emit(rows)
    else:
        say(f"{out}: {run.done} inspected, {run.anomalous} off-nominal, {run.unreadable} unreadable")
        for line in image_level_notes(
            [(row["path"], row["anomalous"], row["whole_p_value"]) for row in rows], calibration.rate
        ):
            say(line)
        for row in rows:
            if row["error"]:
                say(f"unreadable: {row['error']}")
            elif row["pose"] is not None and row["pose"]["problem"]:
                say(f"not found: {row['path']}: {row['pose']['problem']}")
    _exit(run, fail_on_anomaly)


def _exit(run: InspectionRun, fail_on_anomaly: bool) -> None:
    """End with the exit code of a run."""
    if fail_on_anomaly and run.anomalous:
        raise click.exceptions.Exit(errors.OFF_NOMINAL)
    if run.unreadable:
        raise click.exceptions.Exit(errors.SOME_UNREADABLE)


def _on_cluster(
    context: click.Context,
    address: str,
    model: Path,
    inputs: tuple[str, ...],
    out: str,
    extras: Extras,
    pages: Pages,
    weights: Path | None,
    given: Mapping[str, object],
) -> InspectionRun:
    """Inspect on a cluster. `given` has options that a cluster does not support."""
    from offnominal.cluster.connection import connected
    from offnominal.cluster.inspecting import inspect_on_cluster
    from offnominal.model import load_model

    for option, value in given.items():
        if value:
            raise errors.SettingsError(f"{option}: not with --cluster, which writes rows and maps; remove one of them")
    load_model(model)  # a wrong file is refused before the workers start
    with connected(address) as cluster, Console() as console:
        return inspect_on_cluster(
            cluster,
            model,
            inputs,
            out,
            weights=weights,
            run_settings=given_settings(context),
            extras=extras,
            pages=pages,
            observer=console,
        )
