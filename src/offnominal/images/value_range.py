"""How stored values become the network's 0 to 1, learned once from the normal images and kept in the model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from offnominal.errors import ImageError
from offnominal.images.decode import depth_of
from offnominal.images.exposure import Exposure
from offnominal.types import Depth, Float

#: Share of pixels ignored at either end, so that a hot or a dead pixel does not set the range.
IGNORED_SHARE = 1e-4
#: The range reaches at most its own width beyond what is left when this share is ignored at either end.
INNER_SHARE = 1e-3
#: A value stands alone where at least so many other values are there to stand apart from.
FEWEST_LEVELS = 16
#: Pixels that are brought to 8 bits at once.
_DRAWN_AT_ONCE = 1_000_000
#: Values of an image that are looked at; of more, evenly spaced rows and columns.
MOST_VALUES = 4_000_000


@dataclass(frozen=True)
class ValueRange:
    """`low` becomes 0 and `high` becomes 1; values beyond are extrapolated.

    8-bit images use 0 to 255. For 16-bit (and float) images the range is the one that the normal images really fill, so a
    12-bit camera or a thermal one with an offset gets its full contrast. No-data values and outliers do not set it, and are
    clipped to one width of the range beyond either end before an image is resized. `exposure` is how brightly the normal
    images are lit, None where every image is to be seen as bright as it is.
    """

    depth: Depth
    low: float
    high: float
    exposure: Exposure | None = None

    def clipped(self, pixels: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Stored values with no-data and outliers brought near the range, so that a resize does not smear them over others."""
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
        """Stored values, (H, W, C) or (H, W), -> the same in float32, about 0 to 1.

        Raises:
            ImageError: the depth differs from the one that the range was learned on.
        """
        depth = depth_of(pixels)
        if depth == "float" and self.depth == "8-bit":
            if pixels.min() < 0 or pixels.max() > 1:
                raise ImageError(f"{name}: float values outside 0 to 1 for a model of 8-bit images; divide by the white level")
            return pixels.astype(np.float32)
        if depth != self.depth:
            raise ImageError(
                f"{name}: is {depth}, the model was fitted on {self.depth} images; convert it, or fit on such images"
            )
        return (pixels.astype(np.float32) - np.float32(self.low)) * np.float32(1.0 / (self.high - self.low))


EIGHT_BIT = ValueRange("8-bit", 0.0, 255.0)


def image_range(pixels: npt.NDArray[Any]) -> tuple[float, float]:
    """Lowest and highest value of an image, without no-data values and outliers.

    Values at either end that stand alone go first: those that a gap wider than the range of all others separates from them,
    such as -9999, -3.4e38, or 65535 where a sensor is saturated. Of the rest, up to `IGNORED_SHARE` of the pixels at either
    end are ignored, and more where these would more than treble the range of all but `INNER_SHARE`.
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

    def at(rank: int) -> float:
        return float(values[np.searchsorted(below, rank, side="right")])

    skip, inner = int(IGNORED_SHARE * total), int(INNER_SHARE * total)
    low, high = at(inner), at(total - 1 - inner)
    return max(at(skip), low - (high - low)), min(at(total - 1 - skip), high + (high - low))


def join_ranges(depth: Depth, ranges: list[tuple[float, float]]) -> ValueRange:
    """The range of a set of images from those of its members; a member whose values lie far from the others' adds little.

    It reaches at most the median width of the members beyond their median ends.
    """
    if depth == "8-bit":
        return EIGHT_BIT
    lows, highs = np.array(ranges, np.float64).T
    low, high = float(np.median(lows)), float(np.median(highs))
    width = max(high - low, float(np.median(highs - lows)))
    low, high = max(float(lows.min()), low - width), min(float(highs.max()), high + width)
    return ValueRange(depth, low, high if high > low else low + 1.0)


def displayed(pixels: npt.NDArray[Any], values: ValueRange) -> npt.NDArray[np.uint8]:
    """(H, W, 3) uint8 for a screen, with the value range as black and white (clipped: for the eye only)."""
    if pixels.dtype == np.uint8:
        return pixels
    low, high = (0.0, 1.0) if depth_of(pixels) == "float" and values.depth == "8-bit" else (values.low, values.high)
    shown = np.empty(pixels.shape, np.uint8)
    rows = max(1, _DRAWN_AT_ONCE // max(1, pixels.shape[1]))
    for top in range(0, len(pixels), rows):  # a few at a time, since floats take four times the memory
        part = np.clip(pixels[top : top + rows], pixels.dtype.type(low), pixels.dtype.type(high)).astype(np.float32)
        shown[top : top + rows] = np.clip((part - low) / (high - low), 0, 1) * 255
    return shown
