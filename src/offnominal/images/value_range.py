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


@dataclass(frozen=True)
class ValueRange:
    """`low` becomes 0 and `high` becomes 1; values beyond are extrapolated, never clipped.

    8-bit images use 0 to 255. For 16-bit (and float) images the range is the one that the normal images really fill, so a
    12-bit camera or a thermal one with an offset gets its full contrast. `exposure` is how brightly the normal images are lit,
    None where every image is to be seen as bright as it is.
    """

    depth: Depth
    low: float
    high: float
    exposure: Exposure | None = None

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
    """Lowest and highest value of an image, up to `IGNORED_SHARE` of its pixels at either end."""
    values = np.sort(pixels, axis=None)
    skip = int(IGNORED_SHARE * values.size)
    return float(values[skip]), float(values[-1 - skip])


def join_ranges(depth: Depth, ranges: list[tuple[float, float]]) -> ValueRange:
    """The range of a set of images from those of its members."""
    if depth == "8-bit":
        return EIGHT_BIT
    low, high = min(low for low, _ in ranges), max(high for _, high in ranges)
    return ValueRange(depth, low, high if high > low else low + 1.0)


def displayed(pixels: npt.NDArray[Any], values: ValueRange) -> npt.NDArray[np.uint8]:
    """(H, W, 3) uint8 for a screen, with the value range as black and white (clipped: for the eye only)."""
    if pixels.dtype == np.uint8:
        return pixels
    low, high = (0.0, 1.0) if depth_of(pixels) == "float" and values.depth == "8-bit" else (values.low, values.high)
    scaled = (pixels.astype(np.float32) - low) / (high - low)
    shown: npt.NDArray[np.uint8] = (np.clip(scaled, 0, 1) * 255).astype(np.uint8)
    return shown
