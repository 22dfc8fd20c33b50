"""What `evaluate` leaves in a folder: metrics, scores, plots and a report."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from offnominal.errors import raise_unless_of_one_image, reason_of
from offnominal.images import displayed, pixels_of
from offnominal.inference import Evaluation
from offnominal.model import Model
from offnominal.outputs.charts import evaluation_charts, write_charts
from offnominal.outputs.model_facts import readable_facts, warnings_of
from offnominal.outputs.report_files import ReportWriter, as_text, make_folder
from offnominal.reports.plots import Chart
from offnominal.storage import write_whole


def begin_evaluation(folder: Path, plots: Path | None = None) -> None:
    """Make the folders, before the work that ends in them. Raises `OutputError` where that cannot be."""
    for one in (folder, *([] if plots is None else [plots])):
        make_folder(one)


def write_evaluation(
    model: Model,
    result: Evaluation,
    folder: Path,
    title: str,
    plots: Path | None = None,
    failed: Callable[[str], None] = lambda reason: None,
) -> dict[str, Any]:
    """Write `metrics.json`, `scores.csv` and `report.html`, and the plots as files where a folder is given for them.

    `failed(reason)` is called for each image that cannot be drawn; it stands in the report without pictures.

    Returns the metrics.
    """
    begin_evaluation(folder, plots)
    metrics = result.as_json()
    write_whole(folder / "metrics.json", (json.dumps(metrics, indent=2) + "\n").encode())
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(["path", "label", "score", "p_value", "anomalous", "error", "whole_p_value"])
    reasons = dict(result.unreadable)  # an image whose mask cannot be read was scored all the same
    for image in result.images:
        found, name = image.inspection, image.item.name
        whole = "" if found.whole_p_value is None else f"{found.whole_p_value:.6g}"
        judged = f"{found.score:.9g}", f"{found.p_value:.6g}", int(found.anomalous)
        writer.writerow([name, image.item.label, *judged, reasons.pop(name, ""), whole])
    for name, reason in reasons.items():
        writer.writerow([name, "", "", "", "", reason, ""])
    write_whole(folder / "scores.csv", as_text(table.getvalue()))
    charts = evaluation_charts(model.calibration, result)
    if plots is not None:
        write_charts(charts, plots)
    _write_report(model, result, folder, title, metrics, charts, failed)
    return metrics


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
        item, found = image.item, image.inspection
        add = partial(page.add, index, item.name, found, label=item.label, good=item.good, mask=image.mask)
        try:
            # Pictures are decoded anew: kept since their inspection, those of a large set would fill the memory.
            wanted = page.wants(index, found, item.good)
            add(displayed(pixels_of(item.path, model.settings.memory), model.values) if wanted else None)
        except Exception as error:  # noqa: BLE001 - whatever it is raised by, it costs this image alone
            raise_unless_of_one_image(error)
            failed(f"{item.path}: cannot be drawn ({reason_of(error)})")
            add(None)
    notes = warnings_of(model)
    if result.without_mask:
        notes.append(f"Defective images without a mask that can be read: {result.without_mask}; pixel figures leave them out.")
    if result.unlabelled:
        notes.append(f"Rows left out for want of a label: {result.unlabelled}.")
    page.write(title, readable_facts(model), notes, result.unreadable, metrics, charts[1:])
