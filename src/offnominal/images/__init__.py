"""Images: folder, manifest, array -> `ImageBatch` in network pixels, and the way back to original pixels."""

from offnominal.images.batches import (
    ImageBatch,
    Prepared,
    Source,
    batches,
    content_digest,
    pixels_of,
    prepare,
    raise_unreadable,
    several,
)
from offnominal.images.decode import Header, decode, depth_of, from_array, from_pillow, read_header
from offnominal.images.disturb import DISTURBANCES
from offnominal.images.exposure import Exposure, block_levels, brightness, exposure_of, levels
from offnominal.images.files import MEMORY, count_pages
from offnominal.images.folders import RUN_FOLDERS
from offnominal.images.geometry import Geometry, box_of, enlarge, place_at, resize, to_original
from offnominal.images.items import GOOD, Item
from offnominal.images.masks import read_mask
from offnominal.images.pages import Pages, in_pages, page_paths
from offnominal.images.profile import profiles
from offnominal.images.pseudo_anomalies import PSEUDO_ANOMALIES, pseudo_anomaly
from offnominal.images.sources import (
    Found,
    any_images,
    count_unlabelled,
    find_any,
    find_labelled,
    find_normal,
    labelled_images,
    manifest_notes,
    normal_images,
)
from offnominal.images.thumbnails import Thumbnails, ThumbnailStore, thumbnail
from offnominal.images.value_range import EIGHT_BIT, ValueRange, displayed, image_range, join_ranges

__all__ = [
    "DISTURBANCES",
    "EIGHT_BIT",
    "GOOD",
    "MEMORY",
    "PSEUDO_ANOMALIES",
    "RUN_FOLDERS",
    "Exposure",
    "Found",
    "Geometry",
    "Header",
    "ImageBatch",
    "Item",
    "Pages",
    "Prepared",
    "Source",
    "ThumbnailStore",
    "Thumbnails",
    "ValueRange",
    "any_images",
    "batches",
    "block_levels",
    "box_of",
    "brightness",
    "content_digest",
    "count_pages",
    "count_unlabelled",
    "decode",
    "depth_of",
    "displayed",
    "enlarge",
    "exposure_of",
    "find_any",
    "find_labelled",
    "find_normal",
    "from_array",
    "from_pillow",
    "image_range",
    "in_pages",
    "join_ranges",
    "labelled_images",
    "levels",
    "manifest_notes",
    "normal_images",
    "page_paths",
    "pixels_of",
    "place_at",
    "prepare",
    "profiles",
    "pseudo_anomaly",
    "raise_unreadable",
    "read_header",
    "read_mask",
    "resize",
    "several",
    "thumbnail",
    "to_original",
]
