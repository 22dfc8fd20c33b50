"""Data sets: a folder, an MVTec root, a glob or a manifest -> the items to fit on, to inspect or to evaluate on."""

from offnominal.datasets.folders import RUN_FOLDERS
from offnominal.datasets.items import GOOD, Item
from offnominal.datasets.listing import (
    Listing,
    any_images,
    count_unlabelled,
    find_any,
    find_labelled,
    find_normal,
    labelled_images,
    manifest_notes,
    normal_images,
)
from offnominal.datasets.pages import Pages, in_pages, page_paths
from offnominal.datasets.tables import MANIFESTS

__all__ = [
    "GOOD",
    "MANIFESTS",
    "RUN_FOLDERS",
    "Item",
    "Listing",
    "Pages",
    "any_images",
    "count_unlabelled",
    "find_any",
    "find_labelled",
    "find_normal",
    "in_pages",
    "labelled_images",
    "manifest_notes",
    "normal_images",
    "page_paths",
]
