"""Exact evaluation metrics of images and pixels, their curves, and paired comparison of two models."""

from offnominal.metrics.curves import (
    Curves,
    Points,
    Reliability,
    precision_recall_points,
    reliability,
    roc_points,
    thinned,
    up_to,
)
from offnominal.metrics.localisation import PixelScores, aupro
from offnominal.metrics.paired import CONFIDENCE, RESAMPLES, Interval, Paired, Verdicts, paired_figures
from offnominal.metrics.ranking import Ranking, area_under_roc, auroc, average_precision, best_f1, rank
from offnominal.metrics.summary import Figures, Judged, figures, figures_and_curves, figures_by_class

__all__ = [
    "CONFIDENCE",
    "RESAMPLES",
    "Curves",
    "Figures",
    "Interval",
    "Judged",
    "Paired",
    "PixelScores",
    "Points",
    "Ranking",
    "Reliability",
    "Verdicts",
    "area_under_roc",
    "aupro",
    "auroc",
    "average_precision",
    "best_f1",
    "figures",
    "figures_and_curves",
    "figures_by_class",
    "paired_figures",
    "precision_recall_points",
    "rank",
    "reliability",
    "roc_points",
    "thinned",
    "up_to",
]
