"""Regions of interest as files: a mask, and a preview on one of the images."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from offnominal.errors import unwritable
from offnominal.images import EIGHT_BIT, Source, ValueRange, depth_of, displayed, image_range, join_ranges, pixels_of
from offnominal.reports import shrink
from offnominal.roi import RegionOfInterest
from offnominal.storage import write_atomically

#: Longest side of the preview in pixels.
PREVIEW = 1600


def write_region(region: RegionOfInterest, image: Source, path: Path) -> Path:
    """Write a region as a mask, and a preview beside it: an image whose other pixels are dimmed.

    Parameters
    ----------
    region
        The region.
    image
        An image of its aspect ratio.
    path
        PNG file of the mask.

    Returns
    -------
    Path
        The preview.

    Raises
    ------
    ImageError
        The image cannot be read.
    OutputError
        A file cannot be written.
    """
    pixels = pixels_of(image)
    depth = depth_of(pixels)
    values: ValueRange = EIGHT_BIT if depth == "8-bit" else join_ranges(depth, [image_range(pixels)])
    counted = None if region.whole else region.at((pixels.shape[0], pixels.shape[1]))
    shown = shrink(displayed(pixels, values, counted), PREVIEW)
    preview = path.with_name(f"{path.stem}-preview.jpg")
    pictures = ((path, region.mask.astype(np.uint8) * np.uint8(255)), (preview, np.ascontiguousarray(shown[:, :, ::-1])))
    for target, picture in pictures:
        _, content = cv2.imencode(target.suffix, picture)
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise unwritable(target, error) from None
        write_atomically(target, content.tobytes())
    return preview
