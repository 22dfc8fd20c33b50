"""Reports: results -> overlays, plots and HTML that a person looks at."""

from offnominal.reports.html import GALLERY, MEANING, Shown, evaluation_report, gallery_order
from offnominal.reports.maps import LEVELS, CocoMasks, MapFormat, encode_map, encode_mask, run_lengths
from offnominal.reports.overlay import Picture, influence_picture, outline, overlay, shrink
from offnominal.reports.plots import roc_curve, score_histogram
from offnominal.reports.receipt import SourcePicture, receipt

__all__ = [
    "GALLERY",
    "LEVELS",
    "MEANING",
    "CocoMasks",
    "MapFormat",
    "Picture",
    "Shown",
    "SourcePicture",
    "encode_map",
    "encode_mask",
    "evaluation_report",
    "gallery_order",
    "influence_picture",
    "outline",
    "overlay",
    "receipt",
    "roc_curve",
    "run_lengths",
    "score_histogram",
    "shrink",
]
