"""Reports: results -> overlays, plots and pages that a person looks at."""

from offnominal.reports.comparison import ChangedPictures, comparison_page
from offnominal.reports.entries import Entry, Pictures, pictures_of
from offnominal.reports.html import MEANING, attention, report, verdict
from offnominal.reports.overlay import influence_picture, outline, overlay, shrink

__all__ = [
    "MEANING",
    "ChangedPictures",
    "Entry",
    "Pictures",
    "attention",
    "comparison_page",
    "influence_picture",
    "outline",
    "overlay",
    "pictures_of",
    "report",
    "shrink",
    "verdict",
]
