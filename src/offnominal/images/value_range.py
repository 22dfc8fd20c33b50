"""Scaling of stored values to the network's 0 to 1. It is learned from the normal images and kept in the model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from offnominal.errors import ImageError
from offnominal.images.arrays import depth_of
from offnominal.images.exposure import Exposure
from offnominal.types import Depth, Float, Mask

#: Share of pixels ignored at either end, so that hot and dead pixels do not set the range.
IGNORED_SHARE = 1e-4
#: Ignoring this share at either end leaves the inner range; the range extends at most one inner width beyond it.
INNER_SHARE = 1e-3
#: With no more than this many distinct values, none is treated as isolated.
FEWEST_LEVELS = 16
#: Pixels outside of the region of interest are shown at this fraction of their brightness.
DIMMED = 3
#: Pixels converted to 8 bits at a time.
_PIXELS_AT_ONCE = 1_000_000
#: Larger images are sampled at evenly spaced rows and columns, to about this many values.
MOST_VALUES = 4_000_000


@dataclass(frozen=True)
class ValueRange:
    """Linear scaling of stored values: `low` becomes 0 and `high` becomes 1; values outside are extrapolated.

    8-bit images use 0 to 255. 16-bit and float images use the range that the normal images fill, so that a 12-bit camera or a
    thermal camera with an offset gets full contrast. No-data values and outliers do not set the range. Before an image is
    resized, they are clipped to one width of the range beyond either end.

    Attributes
    ----------
    depth
        Depth of the images: `8-bit`, `16-bit` or `float`.
    low, high
        Stored values that become 0 and 1.
    exposure
        Exposure of the normal images, for the correction of new ones; None for no correction.

    Examples
    --------
    >>> values = ValueRange("16-bit", low=1000, high=3000)
    >>> values.scale(np.array([[1000, 2000, 4000]], np.uint16), "part.png").round(3).tolist()
    [[0.0, 0.5, 1.5]]
    """

    depth: Depth
    low: float
    high: float
    exposure: Exposure | None = None

    def clipped(self, pixels: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Clip no-data values and outliers near the range, so that a resize does not smear them over their neighbours."""
        if self.depth == "8-bit" or depth_of(pixels) != self.depth:
            return pixels
        width = self.high - self.low
        low, high = self.low - width, self.high + width
        if self.depth == "16-bit":
            low, high = max(0.0, np.floor(low)), min(65535.0, np.ceil(high))
        if pixels.min() >= low and pixels.max() <= high:
            return pixels
        clipped: npt.NDArray[Any] = np.clip(pixels, pixels.dtype.type(low), pixels.dtype.type(high))
        return clipped

    def scale(self, pixels: npt.NDArray[Any], name: str) -> Float:
        """Scale stored values.

        Parameters
        ----------
        pixels
            (H, W) or (H, W, C) stored values.
        name
            Name of the image for messages.

        Returns
        -------
        ndarray of float32
            The shape of `pixels`, about 0 to 1.

        Raises
        ------
        ImageError
            The depth differs from that of the normal images. Floats from 0 to 1 are accepted with an 8-bit range.
        """
        depth = depth_of(pixels)
        if depth == "float" and self.depth == "8-bit":
            if pixels.min() < 0 or pixels.max() > 1:
                raise ImageError(f"{name}: float values outside 0 to 1 for a model of 8-bit images; divide by the white level")
            return pixels.astype(np.float32)
        if depth != self.depth:
            raise ImageError(
                f"{name}: is {depth}, the model was fitted on {self.depth} images; convert it, or fit on {depth} images"
            )
        return (pixels.astype(np.float32) - np.float32(self.low)) * np.float32(1.0 / (self.high - self.low))


#: The range of all 8-bit images.
EIGHT_BIT = ValueRange("8-bit", 0.0, 255.0)


def image_range(pixels: npt.NDArray[Any]) -> tuple[float, float]:
    """Estimate the value range of an image, without no-data values and outliers.

    Isolated values at either end are removed first: those separated from all others by a gap wider than the range of the
    others, such as -9999, -3.4e38, or 65535 of a saturated sensor. Of the rest, a share of `IGNORED_SHARE` of the pixels is
    ignored at either end. Each end then lies at most one inner width beyond the inner range, which ignores `INNER_SHARE`.

    Parameters
    ----------
    pixels
        (H, W) or (H, W, C) stored values.

    Returns
    -------
    tuple of float
        Lowest and highest value.

    Examples
    --------
    >>> pixels = np.arange(400.0).reshape(20, 20)
    >>> pixels[0, 0] = -9999  # no data
    >>> image_range(pixels)
    (1.0, 399.0)
    """
    step = max(1, round((pixels.size / MOST_VALUES) ** 0.5))
    levels, counts = np.unique(pixels[::step, ::step], return_counts=True)
    values = levels.astype(np.float64)
    first, last = 0, len(values) - 1
    while last - first >= FEWEST_LEVELS:
        if values[first + 1] - values[first] > values[last] - values[first + 1]:
            first += 1
        elif values[last] - values[last - 1] > values[last - 1] - values[first]:
            last -= 1
        elif min(values[first + 1] - values[first], values[last] - values[last - 1]) > values[last - 1] - values[first + 1]:
            first, last = first + 1, last - 1
        else:
            break
    values, below = values[first : last + 1], np.cumsum(counts[first : last + 1])
    total = int(below[-1])

    def value_at(rank: int) -> float:
        return float(values[np.searchsorted(below, rank, side="right")])

    skip, inner = int(IGNORED_SHARE * total), int(INNER_SHARE * total)
    low, high = value_at(inner), value_at(total - 1 - inner)
    return max(value_at(skip), low - (high - low)), min(value_at(total - 1 - skip), high + (high - low))


def join_ranges(depth: Depth, ranges: list[tuple[float, float]]) -> ValueRange:
    """Combine the ranges of several images; an image far from the others adds little.

    The result extends beyond the median ends by at most their distance, or by the median width if that is larger. 8-bit images
    always have `EIGHT_BIT`.

    Parameters
    ----------
    depth
        Depth of the images.
    ranges
        `image_range` of each image, at least one unless the depth is 8-bit.

    Examples
    --------
    >>> join_ranges("16-bit", [(1000, 2000), (1100, 2100), (1000, 60000)])
    ValueRange(depth='16-bit', low=1000.0, high=3200.0, exposure=None)
    """
    if depth == "8-bit":
        return EIGHT_BIT
    lows, highs = np.array(ranges, np.float64).T
    low, high = float(np.median(lows)), float(np.median(highs))
    width = max(high - low, float(np.median(highs - lows)))
    low, high = max(float(lows.min()), low - width), min(float(highs.max()), high + width)
    return ValueRange(depth, low, high if high > low else low + 1.0)


def displayed(pixels: npt.NDArray[Any], values: ValueRange, counted: Mask | None = None) -> npt.NDArray[np.uint8]:
    """Convert stored values to 8 bits for display: the value range spans black to white, and values outside are clipped.

    Pixels that do not count are dimmed.

    Parameters
    ----------
    pixels
        (H, W, 3) stored values. 8-bit pixels are returned unchanged.
    values
        Value range of the model.
    counted
        (H, W) pixels that count, as in `Model.counted`; None if all do.

    Returns
    -------
    ndarray of uint8
        (H, W, 3).

    Examples
    --------
    >>> displayed(np.array([[[1000, 2000, 4000]]], np.uint16), ValueRange("16-bit", 1000, 3000)).tolist()
    [[[0, 127, 255]]]
    """
    if counted is not None:
        shown = displayed(pixels, values).copy()
        shown[~counted] //= DIMMED
        return shown
    if pixels.dtype == np.uint8:
        return pixels
    low, high = (0.0, 1.0) if depth_of(pixels) == "float" and values.depth == "8-bit" else (values.low, values.high)
    shown = np.empty(pixels.shape, np.uint8)
    rows = max(1, _PIXELS_AT_ONCE // max(1, pixels.shape[1]))
    for top in range(0, len(pixels), rows):  # in blocks, since floats take four times the memory
        part = np.clip(pixels[top : top + rows], pixels.dtype.type(low), pixels.dtype.type(high)).astype(np.float32)
        shown[top : top + rows] = np.clip((part - low) / (high - low), 0, 1) * 255
    return shown
