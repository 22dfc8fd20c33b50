"""The charts of an evaluation and of a model, and their files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from offnominal.decisions import Calibration
from offnominal.inference import Evaluation
from offnominal.metrics import reliability, up_to
from offnominal.model import Model
from offnominal.outputs.report_writer import make_folder
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
from offnominal.storage import write_atomically
from offnominal.types import Float


def evaluation_charts(calibrated: Calibration, result: Evaluation) -> list[Chart]:
    """Charts of an evaluation.

    Parameters
    ----------
    calibrated
        Calibration of the model, for the threshold and the stated rate.
    result
        Scores and curves of the evaluation.

    Returns
    -------
    list of Chart
        Score histogram (first); ROC and precision-recall if there are good and defective images; PRO and pixel
        precision-recall if there are masks; calibration; box plot of the classes.
    """
    figures, curves = result.figures, result.curves
    threshold = calibrated.threshold
    good, defect = _scores(result, "good"), _scores(result, None)
    charts = [score_histogram({"good": good, "defect": defect}, threshold)]
    detected, false_alarms = int((defect > threshold).sum()), int((good > threshold).sum())
    if curves.roc is not None and curves.precision_recall is not None:
        detection_rate = detected / len(defect)
        charts.append(roc(curves.roc, _number(figures["image_auroc"]), (false_alarms / len(good), detection_rate)))
        share = len(defect) / (len(good) + len(defect))
        point = (detection_rate, detected / (detected + false_alarms)) if detected + false_alarms else None
        charts.append(precision_recall(curves.precision_recall, _number(figures["image_ap"]), share, point))
    if curves.pro is not None and curves.pixel_precision_recall is not None:
        charts.append(pro(up_to(curves.pro, 0.3), _number(figures["aupro_0.30"]), _number(figures["aupro_0.05"])))
        charts.append(pixel_precision_recall(curves.pixel_precision_recall, _number(figures["pixel_ap"])))
    p_values = [image.inspection.p_value for image in result.images if image.item.good]
    rates = reliability(p_values, calibrated.count)
    charts.append(calibration(rates.requested, rates.observed, rates.low, rates.high, calibrated.rate))
    labels = sorted({image.item.label or "defect" for image in result.images if not image.item.good})
    charts.append(class_boxes([(name, _scores(result, name)) for name in ("good", *labels)], threshold))
    return charts


def model_charts(model: Model) -> list[Chart]:
    """Charts of a model: for each member the bank in two dimensions, and its covering radius over the number of patches.

    The radius needs the order of a greedy selection, which an update does not keep.
    """
    charts: list[Chart] = []
    greedy = model.settings.sampler == "greedy" and not model.added and not model.removed
    for number, member in enumerate(model.members):
        bank = member.bank.patches.cpu().numpy()
        if len(bank) < 2:
            continue
        member_charts = [bank_coverage(bank)]
        if greedy and member.bank.radius is not None:
            member_charts.append(radius_growth(bank, member.bank.radius))
        if len(model.members) > 1:
            member_charts = [
                replace(chart, name=f"{chart.name}-{number + 1}", title=f"{chart.title}: {member.name}")
                for chart in member_charts
            ]
        charts += member_charts
    return charts


def write_charts(charts: Sequence[Chart], folder: Path) -> list[Path]:
    """Write each chart as `<name>.png` and return the paths. Raises `OutputError`."""
    make_folder(folder)
    paths = []
    for name, content in files_of(charts).items():
        write_atomically(folder / name, content)
        paths.append(folder / name)
    return paths


def _scores(result: Evaluation, label: str | None) -> Float:
    """Scores of the images with a label, or of all defective images."""
    scores = [
        image.inspection.score
        for image in result.images
        if (not image.item.good if label is None else (image.item.label or "defect") == label)
    ]
    return np.array(scores, dtype=np.float32)


def _number(value: float | int | None) -> float:
    assert value is not None
    return float(value)
