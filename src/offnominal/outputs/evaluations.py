"""Outputs of `evaluate`: metrics, scores, plots and a report."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from offnominal.errors import raise_if_fatal, reason_of
from offnominal.images import displayed, pixels_of
from offnominal.inference import Evaluation
from offnominal.model import Model
from offnominal.outputs.charts import evaluation_charts, write_charts
from offnominal.outputs.model_facts import readable_facts, warnings_of
from offnominal.outputs.report_writer import ReportWriter, as_text, make_folder
from offnominal.reports.plots import Chart
from offnominal.storage import write_atomically


def begin_evaluation(folder: Path, plots: Path | None = None) -> None:
    """Create the output folders, so that an error comes before the work. Raises `OutputError`."""
    for target in (folder, *([] if plots is None else [plots])):
        make_folder(target)


def write_evaluation(
    model: Model,
    result: Evaluation,
    folder: Path,
    title: str,
    plots: Path | None = None,
    failed: Callable[[str], None] = lambda reason: None,
) -> dict[str, Any]:
    """Write `metrics.json`, `scores.csv` and `report.html`.

    Parameters
    ----------
    model
        The evaluated model.
    result
        Its evaluation.
    folder
        Output folder.
    title
        Title of the report.
    plots
        Folder for the plots as PNG files; None writes none.
    failed
        Called with the reason for each image that cannot be drawn; the report lists it without pictures.

    Returns
    -------
    dict
        The content of `metrics.json`.

    Raises
    ------
    OutputError
        A file cannot be written.
    """
    begin_evaluation(folder, plots)
    metrics = result.as_json()
    write_atomically(folder / "metrics.json", (json.dumps(metrics, indent=2) + "\n").encode())
    write_atomically(folder / "scores.csv", as_text(_score_table(result)))
    charts = evaluation_charts(model.calibration, result)
    if plots is not None:
        write_charts(charts, plots)
    _write_report(model, result, folder, title, metrics, charts, failed)
    return metrics


def _score_table(result: Evaluation) -> str:
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(["path", "label", "score", "p_value", "anomalous", "error", "whole_p_value"])
    reasons = dict(result.unreadable)  # includes images with a score whose mask cannot be read
    for image in result.images:
        inspection, name = image.inspection, image.item.name
        whole = "" if inspection.whole_p_value is None else f"{inspection.whole_p_value:.6g}"
        verdict = f"{inspection.score:.9g}", f"{inspection.p_value:.6g}", int(inspection.anomalous)
        writer.writerow([name, image.item.label, *verdict, reasons.pop(name, ""), whole])
    for name, reason in reasons.items():
        writer.writerow([name, "", "", "", "", reason, ""])
    return table.getvalue()


def _write_report(
    model: Model,
    result: Evaluation,
    folder: Path,
    title: str,
    metrics: dict[str, Any],
    charts: Sequence[Chart],
    failed: Callable[[str], None],
) -> None:
    page = ReportWriter(folder, model)
    for index, image in enumerate(result.images):
        item, inspection = image.item, image.inspection
        add = partial(page.add, index, item.name, inspection, label=item.label, good=item.good, mask=image.mask)
        try:
            # Decoded again: keeping the pictures of a large set would exhaust the memory.
            needed = page.needs_picture(index, inspection, item.good)
            pixels = pixels_of(item.path, model.settings.memory) if needed else None
            add(None if pixels is None else displayed(pixels, model.values, model.counted(inspection)))
        except Exception as error:  # noqa: BLE001 - any failure costs this image alone
            raise_if_fatal(error)
            failed(f"{item.path}: cannot be drawn ({reason_of(error)})")
            add(None)
    notes = warnings_of(model)
    if result.without_mask:
        notes.append(f"Defective images without a readable mask: {result.without_mask} (left out of the pixel figures).")
    if result.unlabelled:
        notes.append(f"Rows without a label: {result.unlabelled} (left out).")
    page.write(title, readable_facts(model), notes, result.unreadable, metrics, charts[1:])
