"""Images: files and arrays to batches in network pixels, and maps back to original pixels."""

from offnominal.images.alignment import Alignment, PoseLimits, aligned, covered, moved, to_image
from offnominal.images.arrays import depth_of, from_array
from offnominal.images.batches import ImageBatch, batches, raise_unreadable
from offnominal.images.decode import Header, decode, from_pillow, read_header
from offnominal.images.disturb import DISTURBANCES
from offnominal.images.exposure import Exposure, block_levels, brightness, exposure_of, levels
from offnominal.images.file_checks import DEFAULT_MEMORY, count_pages
from offnominal.images.geometry import Geometry, box_of, enlarge, position_at, resize, to_original
from offnominal.images.image_source import (
    MeasuredImage,
    Source,
    StoredImage,
    content_digest,
    file_of,
    measured,
    mm_per_pixel_of,
    path_of,
    pixels_of,
    require_sequence,
)
from offnominal.images.masks import read_mask
from offnominal.images.preprocessing import Prepared, Preprocessing, views_of
from offnominal.images.profile import PIXEL_FEATURES, pixel_features
from offnominal.images.region_files import read_region, read_zones, with_region
from offnominal.images.thumbnails import Thumbnails, ThumbnailStore, thumbnail
from offnominal.images.tiles import ALIGNED, MARGIN, LargeImage, Tile, View, tiles_of
from offnominal.images.value_range import EIGHT_BIT, ValueRange, displayed, image_range, join_ranges

__all__ = [
    "ALIGNED",
    "DEFAULT_MEMORY",
    "DISTURBANCES",
    "EIGHT_BIT",
    "MARGIN",
    "PIXEL_FEATURES",
    "Alignment",
    "Exposure",
    "Geometry",
    "Header",
    "ImageBatch",
    "LargeImage",
    "MeasuredImage",
    "PoseLimits",
    "Prepared",
    "Preprocessing",
    "Source",
    "StoredImage",
    "ThumbnailStore",
    "Thumbnails",
    "Tile",
    "ValueRange",
    "View",
    "aligned",
    "batches",
    "block_levels",
    "box_of",
    "brightness",
    "content_digest",
    "count_pages",
    "covered",
    "decode",
    "depth_of",
    "displayed",
    "enlarge",
    "exposure_of",
    "file_of",
    "from_array",
    "from_pillow",
    "image_range",
    "join_ranges",
    "levels",
    "measured",
    "mm_per_pixel_of",
    "moved",
    "path_of",
    "pixel_features",
    "pixels_of",
    "position_at",
    "raise_unreadable",
    "read_header",
    "read_mask",
    "read_region",
    "read_zones",
    "require_sequence",
    "resize",
    "thumbnail",
    "tiles_of",
    "to_image",
    "to_original",
    "views_of",
    "with_region",
]
