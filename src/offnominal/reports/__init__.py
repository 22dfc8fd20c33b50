"""Overlays, receipts, plots and HTML pages for people, and maps and masks for other tools."""

from offnominal.reports.comparison import ChangedPictures, comparison_page
from offnominal.reports.entries import Entry, Pictures, SourceFile, embedded, heat_pictures, pictures_of
from offnominal.reports.map_files import LEVELS, CocoMasks, MapFormat, encode_map, encode_mask, run_lengths
from offnominal.reports.overlay import Picture, influence_picture, outline, overlay, shrink
from offnominal.reports.pyramid import ZOOM_FROM, Pyramid, pyramid_tiles
from offnominal.reports.receipt import SourcePicture, receipt
from offnominal.reports.report_page import MEANING, attention, report, verdict

__all__ = [
    "LEVELS",
    "MEANING",
    "ZOOM_FROM",
    "ChangedPictures",
    "CocoMasks",
    "Entry",
    "MapFormat",
    "Picture",
    "Pictures",
    "Pyramid",
    "SourceFile",
    "SourcePicture",
    "attention",
    "comparison_page",
    "embedded",
    "encode_map",
    "encode_mask",
    "heat_pictures",
    "influence_picture",
    "outline",
    "overlay",
    "pictures_of",
    "pyramid_tiles",
    "receipt",
    "report",
    "run_lengths",
    "shrink",
    "verdict",
]
