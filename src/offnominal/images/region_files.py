"""Files of regions of interest: masks, and polygons in JSON."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from offnominal.config import Settings
from offnominal.errors import ImageError, InputError
from offnominal.images.masks import bright_pixels
from offnominal.roi import MOST_SIDE, RegionOfInterest, resized, same_aspect
from offnominal.types import Mask

#: Bytes of a file of polygons, which is read whole.
MOST_BYTES = 10_000_000


def with_region(settings: Settings) -> Settings:
    """The settings with their region of interest read from its files.

    Raises
    ------
    InputError
        A file cannot be read, or no pixel is left.

    Examples
    --------
    >>> with_region(Settings()).region is None
    True
    """
    if settings.ignore is None and not isinstance(settings.roi, Path):
        return settings
    roi, ignore = _mask(settings.roi), _mask(settings.ignore)
    if roi is not None and ignore is not None:
        if not same_aspect(roi.shape, ignore.shape):
            raise InputError(
                f"{settings.ignore}: is {_size(ignore)}, the region of interest {_size(roi)}; draw both on the same image"
            )
        mask = roi & ~resized(ignore, roi.shape)
    elif ignore is not None:
        mask = ~ignore
    else:
        assert roi is not None
        mask = roi
    if not mask.any():
        raise InputError(
            f"{settings.ignore or settings.roi}: leaves no pixel to inspect; white pixels of roi count, white pixels of ignore "
            "do not"
        )
    return settings.model_copy(update={"roi": RegionOfInterest.of(mask), "ignore": None})


def _mask(region: RegionOfInterest | Path | None) -> Mask | None:
    if isinstance(region, Path):
        return read_region(region)
    return None if region is None else region.mask


def _size(mask: Mask) -> str:
    return f"{mask.shape[1]} x {mask.shape[0]}"


def read_region(path: Path) -> Mask:
    """Read the pixels that a file marks.

    Parameters
    ----------
    path
        An image whose white pixels are marked, or JSON: `{"width": W, "height": H, "polygons": [[[x, y], ...], ...]}` in pixels
        of the image, or a file of LabelMe.

    Returns
    -------
    ndarray of bool
        (H, W).

    Raises
    ------
    InputError
        The file cannot be read.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder) / "roi.json"
    ...     _ = path.write_text('{"width": 4, "height": 2, "polygons": [[[0, 0], [1, 0], [1, 1], [0, 1]]]}')
    ...     read_region(path).astype(int)
    array([[1, 1, 0, 0],
           [1, 1, 0, 0]])
    """
    if path.suffix.lower() != ".json":
        try:
            return bright_pixels(path)
        except ImageError as error:
            raise InputError(str(error)) from None
    try:
        with path.open("rb") as file:
            content = file.read(MOST_BYTES + 1)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); check the path") from None
    try:
        if len(content) > MOST_BYTES:
            raise ValueError(f"larger than {MOST_BYTES / 1e6:g} MB")
        return _drawn(json.loads(content))
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError) as error:
        reason = f"no {error}" if isinstance(error, KeyError) else str(error)
        raise InputError(
            f"{path}: is no region ({reason}); give width, height and polygons, each a list of [x, y] in pixels"
        ) from None


def _drawn(content: Any) -> Mask:
    """(H, W) pixels inside of polygons; a large image is reduced to `MOST_SIDE`."""
    if not isinstance(content, dict):
        raise TypeError("not an object")
    if "shapes" in content:  # LabelMe
        polygons = [_corners(shape) for shape in content["shapes"]]
        size = content["imageHeight"], content["imageWidth"]
    else:
        polygons, size = content["polygons"], (content["height"], content["width"])
    if not all(isinstance(side, int) and 1 <= side <= 1_000_000 for side in size):
        raise ValueError(f"a size of {size[1]} x {size[0]}")
    factor = min(1.0, MOST_SIDE / max(size))
    mask = np.zeros([max(1, round(side * factor)) for side in size], np.uint8)
    for polygon in polygons:
        points = np.asarray(polygon, dtype=np.float64)
        if points.ndim != 2 or points.shape[1] != 2 or len(points) < 3 or not np.isfinite(points).all():
            raise ValueError("a polygon needs at least three points [x, y]")
        limit = 2.0 * max(size)  # further outside of the image, coordinates make no difference
        cv2.fillPoly(mask, [np.rint(np.clip(points, -limit, limit) * factor).astype(np.int32)], 1)
    return mask.astype(np.bool_)


def _corners(shape: Any) -> Any:
    """Corners of a shape of LabelMe."""
    if shape.get("shape_type", "polygon") != "rectangle":
        return shape["points"]
    (left, top), (right, bottom) = shape["points"]
    return [[left, top], [right, top], [right, bottom], [left, bottom]]
