"""The commands `audit` and `update`."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from offnominal import errors
from offnominal.cli.console import emit, progress_bars, say
from offnominal.cli.settings import (
    BatchOption,
    DeviceOption,
    Json,
    MemoryOption,
    PagesOption,
    PrecisionOption,
    RuntimeOption,
    Weights,
    detector_from,
    pages_from,
)

_NOT_OF_AUDIT = (
    "data",
    "out",
    "json",
    "false_alarm_rate",
    "calibration",
    "thumbnails",
    "contamination",
)


def register(app: typer.Typer, fit: Callable[..., None]) -> None:
    """Add the commands to `app`; `audit` takes the settings that `fit` takes."""

    def audit(
        data: Annotated[str, typer.Argument(help="MVTec root, folder of good images, glob in quotes, or manifest.")],
        out: Annotated[Path, typer.Option(help="Folder for audit.csv and pictures of the suspects.")],
        contamination: Annotated[
            str | None, typer.Option(help="Which are suspect: auto, or the worst share such as 0.05. [default: auto]")
        ] = None,
        json: Json = False,
        **settings: Any,
    ) -> None:
        """Find images among the good ones that do not look like the others, for you to judge."""
        _audit(data, out, json, {**settings, "contamination": contamination})

    _take_options(audit, fit)
    app.command()(audit)
    app.command()(update)


def _take_options(command: Callable[..., None], fit: Callable[..., None]) -> None:
    """Put the options of `fit` that are settings in the place of `**settings`."""
    of_fit = inspect.signature(fit, eval_str=True).parameters.values()
    own = inspect.signature(command, eval_str=True).parameters
    taken = [parameter for parameter in of_fit if parameter.name not in _NOT_OF_AUDIT]
    ordered = [own["data"], own["out"], own["contamination"], *taken, own["json"]]
    command.__signature__ = inspect.Signature(ordered, return_annotation=None)  # type: ignore[attr-defined]
    command.__annotations__ = {parameter.name: parameter.annotation for parameter in ordered}


def _audit(data: str, out: Path, json: bool, options: dict[str, Any]) -> None:
    config, weights, pages = options.pop("config"), options.pop("weights"), pages_from(options.pop("pages"))
    from offnominal.datasets import find_normal, in_pages
    from offnominal.outputs.suspects import begin_audit, write_audit

    detector = detector_from(options, config, weights)
    normal = find_normal(data)
    items = in_pages(normal.items, pages)
    for note in normal.notes:
        say(f"note: {note}")
    begin_audit(out)
    with progress_bars() as progress:
        found = detector.audit(data, progress=progress, tell=say, pages=pages)
    share = detector.settings.contamination or ("auto" if options["contamination"] is None else 0.0)
    undrawn: list[str] = []
    rows = write_audit(found, [item.path for item in items], out, share, undrawn.append, detector.settings.memory)
    suspects = sum(row["suspect"] for row in rows)
    if json:
        skipped = [{"image": name, "reason": reason} for name, reason in found.skipped]
        emit({"images": len(rows), "suspects": suspects, "rows": rows, "skipped": skipped})
    else:
        worst = f"; the worst: {rows[0]['path']} (score {rows[0]['score']:.2f})" if suspects else ""
        say(f"{out / 'audit.csv'}: {suspects} of {len(rows)} images are suspect{worst}")
    for reason in (*(reason for _, reason in found.skipped), *undrawn):
        say(f"unreadable: {reason}")
    if found.skipped or undrawn:
        raise typer.Exit(errors.SOME_UNREADABLE)


def update(
    model: Annotated[Path, typer.Argument(help="Model file that fit wrote.")],
    add: Annotated[
        list[str] | None, typer.Option(help="Good images to learn: a folder, image, glob or manifest; may be repeated.")
    ] = None,
    remove: Annotated[list[str] | None, typer.Option(help="Name of an image to forget; may be repeated.")] = None,
    out: Annotated[Path | None, typer.Option(help="Model file to write. [default: the same file]")] = None,
    pages: PagesOption = None,
    memory: MemoryOption = None,
    weights: Weights = None,
    runtime: RuntimeOption = None,
    precision: PrecisionOption = None,
    device: DeviceOption = None,
    batch_size: BatchOption = None,
    json: Json = False,
) -> None:
    """Add good images to a model or take some out, without a new fit; the threshold follows."""
    from offnominal.datasets import manifest_notes
    from offnominal.detector import load
    from offnominal.outputs.run import facts, warnings_of

    detector = load(
        model, weights=weights, runtime=runtime, precision=precision, device=device, batch_size=batch_size, memory=memory
    )
    for given in add or ():
        for note in manifest_notes(given):
            say(f"note: {note}")
    before = detector.model.calibration
    with progress_bars() as progress:
        change = detector.update(add=add or (), remove=remove or (), progress=progress, pages=pages_from(pages))
    target = out or model
    detector.save(target)
    after = detector.model.calibration
    for warning in warnings_of(detector.model):
        say(f"note: {warning}")
    if json:
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
        raise typer.Exit(errors.SOME_UNREADABLE)
