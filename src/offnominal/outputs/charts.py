"""Which charts a run and a model have, and their files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from offnominal.decisions import Calibration
from offnominal.inference import Evaluation
from offnominal.metrics import reliability, up_to
from offnominal.model import Model
from offnominal.outputs.report_files import make_folder
from offnominal.reports.plots import (
    Chart,
    bank_coverage,
    calibration,
    class_boxes,
    files_of,
    pixel_precision_recall,
    precision_recall,
    pro,
    radius_growth,
    roc,
    score_histogram,
)
from offnominal.storage import write_whole
from offnominal.types import Float


def evaluation_charts(calibrated: Calibration, result: Evaluation) -> list[Chart]:
    """Score histogram (first), ROC, precision-recall, PRO where there are masks, calibration, box plot of the classes."""
    measured, curves = result.figures, result.curves
    threshold = calibrated.threshold
    good, defect = _scores(result, "good"), _scores(result, None)
    charts = [score_histogram({"good": good, "defect": defect}, threshold)]
    found, false = int((defect > threshold).sum()), int((good > threshold).sum())
    if curves.roc is not None and curves.precision_recall is not None:
        at = found / len(defect)
        charts.append(roc(curves.roc, _number(measured["image_auroc"]), (false / len(good), at)))
        share = len(defect) / (len(good) + len(defect))
        point = (at, found / (found + false)) if found + false else None
        charts.append(precision_recall(curves.precision_recall, _number(measured["image_ap"]), share, point))
    if curves.pro is not None and curves.pixel_precision_recall is not None:
        charts.append(pro(up_to(curves.pro, 0.3), _number(measured["aupro_0.30"]), _number(measured["aupro_0.05"])))
        charts.append(pixel_precision_recall(curves.pixel_precision_recall, _number(measured["pixel_ap"])))
    p_values = [image.inspection.p_value for image in result.images if image.item.good]
    seen = reliability(p_values, calibrated.count)
    charts.append(calibration(seen.asked, seen.seen, seen.low, seen.high, calibrated.rate))
    labels = sorted({image.item.label or "defect" for image in result.images if not image.item.good})
    charts.append(class_boxes([(name, _scores(result, name)) for name in ("good", *labels)], threshold))
    return charts


def model_charts(model: Model) -> list[Chart]:
    """Coverage of each member's bank in two dimensions, and its covering radius as it grew.

    The radius needs the order of a greedy choice, which an update mixes.
    """
    charts: list[Chart] = []
    greedy = model.settings.sampler == "greedy" and not model.added and not model.removed
    for number, member in enumerate(model.members):
        bank = member.bank.patches.cpu().numpy()
        if len(bank) < 2:
            continue
        own = [bank_coverage(bank)]
        if greedy and member.bank.radius is not None:
            own.append(radius_growth(bank, member.bank.radius))
        if len(model.members) > 1:
            own = [replace(one, name=f"{one.name}-{number + 1}", title=f"{one.title}: {member.name}") for one in own]
        charts += own
    return charts


def write_charts(charts: Sequence[Chart], folder: Path) -> list[Path]:
    """Write each chart as `<name>.png`; returns the paths. Raises `OutputError`."""
    make_folder(folder)
    written = []
    for name, content in files_of(charts).items():
        write_whole(folder / name, content)
        written.append(folder / name)
    return written


def _scores(result: Evaluation, label: str | None) -> Float:
    """Scores of one label, or of everything defective."""
    chosen = [
        image.inspection.score
        for image in result.images
        if (not image.item.good if label is None else (image.item.label or "defect") == label)
    ]
    return np.array(chosen, dtype=np.float32)


def _number(value: float | int | None) -> float:
    assert value is not None
    return float(value)
