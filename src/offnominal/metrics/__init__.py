"""Metrics: scores and labels -> figures, all exact."""

from offnominal.metrics.localisation import PixelScores, aupro
from offnominal.metrics.ranking import Ranking, area_under_roc, auroc, average_precision, best_f1, rank
from offnominal.metrics.summary import Figures, Judged, figures, figures_by_class

__all__ = [
    "Figures",
    "Judged",
    "PixelScores",
    "Ranking",
    "area_under_roc",
    "aupro",
    "auroc",
    "average_precision",
    "best_f1",
    "figures",
    "figures_by_class",
    "rank",
]
