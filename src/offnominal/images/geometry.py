"""From original pixels to the network's and back: the only resize in the project."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace
from math import prod, sqrt
from statistics import median_low
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from offnominal.types import Float, Resize


@dataclass(frozen=True)
class Geometry:
    """How images are brought to the network's size.

    Attributes:
        size: (height, width) in network pixels.
        resize: `squash` gives every image `size`. The others keep the aspect (to the nearest `multiple`): with `keep` the
            smaller number of `size` is the short side, with `area` an image gets as many pixels as `size` has.
        multiple: sides are rounded to a multiple of this, the coarsest stride of the backbone.
    """

    size: tuple[int, int]
    resize: Resize
    multiple: int = 32
    longest: int = 4096

    def suited_to(self, originals: Collection[tuple[int, int]]) -> Geometry:
        """With `area`: as many pixels as an image of the median aspect of these (H, W) has with the short side of `size`.

        So images of one shape are resized as with `keep`. Where shapes differ, as parts cut out of larger pictures do, no image
        is enlarged far beyond the others only because it is narrow, and all take about the same time. Of two medians the
        squarer counts.
        """
        if self.resize != "area" or not originals:
            return self
        aspect = median_low(max(original) / min(original) for original in originals)
        return replace(self, size=(min(self.size), round(min(self.size) * aspect)))

    def network_size(self, original: tuple[int, int]) -> tuple[int, int]:
        """(H, W) of the original -> (height, width) that the network sees."""
        if self.resize == "squash":
            return self._rounded(self.size[0]), self._rounded(self.size[1])
        scale = sqrt(prod(self.size) / prod(original)) if self.resize == "area" else min(self.size) / min(original)
        height, width = (min(self.longest, side * scale) for side in original)
        return self._rounded(height), self._rounded(width)

    def _rounded(self, side: float) -> int:
        return max(2, int(side / self.multiple + 0.5)) * self.multiple


def resize(image: npt.NDArray[Any], size: tuple[int, int]) -> npt.NDArray[Any]:
    """Antialiased resize of `(H, W)` or `(H, W, C)` to `size`.

    A side that shrinks is averaged over its source pixels, a side that grows is interpolated; both in two steps, since one
    step that does both would not be antialiased.
    """
    height, width = image.shape[:2]
    smaller = min(height, size[0]), min(width, size[1])
    if smaller != (height, width):
        image = cv2.resize(image, smaller[::-1], interpolation=cv2.INTER_AREA)
    return enlarge(image, size)


def enlarge(image: npt.NDArray[Any], size: tuple[int, int]) -> npt.NDArray[Any]:
    """Bilinear interpolation to `size` with pixel centres aligned."""
    if image.shape[:2] == tuple(size):
        return image
    enlarged: npt.NDArray[Any] = cv2.resize(image, size[::-1], interpolation=cv2.INTER_LINEAR)
    return enlarged


def to_original(grid: Float, original: tuple[int, int]) -> Float:
    """A map of any grid `(h, w)` over the whole image -> `(H, W)` in pixels of the original image."""
    return np.ascontiguousarray(resize(grid, original), dtype=np.float32)


def position_at(pixel: tuple[int, int], grid: tuple[int, int], original: tuple[int, int]) -> tuple[int, int]:
    """(row, column) of the place of a grid (h, w) over the whole image that holds the centre of the pixel `(x, y)`."""
    x, y = pixel
    return (2 * y + 1) * grid[0] // (2 * original[0]), (2 * x + 1) * grid[1] // (2 * original[1])


def box_of(place: tuple[int, int], grid: tuple[int, int], original: tuple[int, int]) -> tuple[int, int, int, int]:
    """`(left, top, right, bottom)` of the pixels that a place (row, column) of a grid (h, w) touches.

    Right and bottom are exclusive. What the network sees there is wider: each feature is a mean over 3 x 3 places, and each
    place has a field of view.
    """
    (row, column), (height, width) = place, original
    return (
        column * width // grid[1],
        row * height // grid[0],
        -(-(column + 1) * width // grid[1]),
        -(-(row + 1) * height // grid[0]),
    )
