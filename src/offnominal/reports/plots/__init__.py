"""Charts of evaluations and models, drawn as inline SVG for a page or by matplotlib for a file."""

from offnominal.reports.plots.chart import Chart
from offnominal.reports.plots.evaluation import (
    calibration,
    class_boxes,
    pixel_precision_recall,
    precision_recall,
    pro,
    roc,
    score_histogram,
    score_pairs,
)
from offnominal.reports.plots.files import drawn, files_of
from offnominal.reports.plots.model import bank_coverage, kcenter_radii, radius_growth
from offnominal.reports.plots.svg import svg

__all__ = [
    "Chart",
    "bank_coverage",
    "calibration",
    "class_boxes",
    "drawn",
    "files_of",
    "kcenter_radii",
    "pixel_precision_recall",
    "precision_recall",
    "pro",
    "radius_growth",
    "roc",
    "score_histogram",
    "score_pairs",
    "svg",
]
