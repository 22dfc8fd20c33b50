"""Reports: results -> overlays, plots and HTML that a person looks at."""

from offnominal.reports.html import GALLERY, MEANING, Shown, evaluation_report, gallery_order
from offnominal.reports.overlay import influence_picture, outline, overlay, shrink
from offnominal.reports.plots import roc_curve, score_histogram

__all__ = [
    "GALLERY",
    "MEANING",
    "Shown",
    "evaluation_report",
    "gallery_order",
    "influence_picture",
    "outline",
    "overlay",
    "roc_curve",
    "score_histogram",
    "shrink",
]
