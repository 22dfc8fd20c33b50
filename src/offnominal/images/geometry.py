"""From original pixels to network pixels and back: the only resize in the project."""

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

#: Upper limit of a side in network pixels, with tiles.
LONGEST_TILED = 65_536


@dataclass(frozen=True)
class Geometry:
    """How images are resized for the network.

    Attributes
    ----------
    size
        (height, width) in network pixels.
    resize
        `squash` resizes every image to `size`. `keep` and `area` preserve the aspect ratio, up to rounding to `multiple`: with
        `keep` the short side gets the smaller number of `size`, with `area` the image gets as many pixels as `size` has.
    multiple
        Sides are rounded to a multiple of this number, the coarsest stride of the backbone.
    longest
        Upper limit of a side in network pixels, with `keep` and `area`.
    tile
        Side of a tile in network pixels; 0 if the network sees the whole image.
    density
        With tiles, network pixels for each pixel of the original, at least; below, the image would lose details.

    Examples
    --------
    >>> Geometry((256, 256), "squash").network_size((600, 800))
    (256, 256)
    >>> Geometry((256, 256), "keep").network_size((600, 800))
    (256, 352)
    """

    size: tuple[int, int]
    resize: Resize
    multiple: int = 32
    longest: int = 4096
    tile: int = 0
    density: float = 0.0

    @property
    def overview(self) -> Geometry:
        """How the whole image is seen, if this geometry has tiles."""
        return replace(self, tile=0, density=0.0)

    def suited_to(self, originals: Collection[tuple[int, int]]) -> Geometry:
        """With `area`, adapt the number of pixels to the median aspect ratio of the original sizes (H, W).

        An image of the median aspect ratio then gets the short side of `size`, so images of one shape are resized as with
        `keep`. If shapes differ, as in crops of larger pictures, narrow images are not enlarged far beyond the others, and all
        images take about the same time. The lower median, towards square images, is used.

        Examples
        --------
        >>> Geometry((256, 256), "area").suited_to([(600, 800), (600, 900), (600, 1200)]).size
        (256, 384)
        """
        if self.resize != "area" or not originals:
            return self
        aspect = median_low(max(original) / min(original) for original in originals)
        return replace(self, size=(min(self.size), round(min(self.size) * aspect)))

    def network_size(self, original: tuple[int, int]) -> tuple[int, int]:
        """Map the size (H, W) of an original image to its (height, width) in network pixels."""
        if self.resize == "squash":
            return self._rounded(self.size[0]), self._rounded(self.size[1])
        scale = sqrt(prod(self.size) / prod(original)) if self.resize == "area" else min(self.size) / min(original)
        longest = LONGEST_TILED if self.tile else self.longest
        height, width = (min(longest, side * max(scale, self.density)) for side in original)
        return self._rounded(height), self._rounded(width)

    def _rounded(self, side: float) -> int:
        return max(2, int(side / self.multiple + 0.5)) * self.multiple


def resize(image: npt.NDArray[Any], size: tuple[int, int]) -> npt.NDArray[Any]:
    """Resize an image with antialiasing.

    A side that shrinks is averaged over its source pixels; a side that grows is interpolated bilinearly. Shrinking comes
    first, in a step of its own: OpenCV antialiases only if no side grows.

    Parameters
    ----------
    image
        (H, W) or (H, W, C).
    size
        (height, width) of the result.

    Returns
    -------
    ndarray
        (height, width) or (height, width, C), the dtype of `image`.

    Examples
    --------
    >>> resize(np.array([[0, 4, 8, 8]], np.float32), (1, 2)).tolist()
    [[2.0, 8.0]]
    """
    height, width = image.shape[:2]
    smaller = min(height, size[0]), min(width, size[1])
    if smaller != (height, width):
        image = cv2.resize(image, smaller[::-1], interpolation=cv2.INTER_AREA)
    return enlarge(image, size)


def enlarge(image: npt.NDArray[Any], size: tuple[int, int]) -> npt.NDArray[Any]:
    """Interpolate an image (H, W) or (H, W, C) bilinearly to `size`, with pixel centres aligned.

    Examples
    --------
    >>> enlarge(np.array([[0, 8]], np.float32), (1, 4)).tolist()
    [[0.0, 2.0, 6.0, 8.0]]
    """
    if image.shape[:2] == tuple(size):
        return image
    enlarged: npt.NDArray[Any] = cv2.resize(image, size[::-1], interpolation=cv2.INTER_LINEAR)
    return enlarged


def to_original(grid: Float, original: tuple[int, int]) -> Float:
    """Resize a map (h, w) of the whole image to the pixels (H, W) of the original image, as float32.

    Examples
    --------
    >>> to_original(np.array([[0, 8]], np.float32), (2, 4)).tolist()
    [[0.0, 2.0, 6.0, 8.0], [0.0, 2.0, 6.0, 8.0]]
    """
    return np.ascontiguousarray(resize(grid, original), dtype=np.float32)


def position_at(pixel: tuple[int, int], grid: tuple[int, int], original: tuple[int, int]) -> tuple[int, int]:
    """Find the patch position that contains the centre of a pixel.

    Parameters
    ----------
    pixel
        `(x, y)` in the original image.
    grid
        (h, w) patch positions, which cover the whole image.
    original
        (H, W) of the original image.

    Returns
    -------
    tuple of int
        (row, column) on the grid.

    Examples
    --------
    >>> position_at((799, 0), (32, 32), (600, 800))
    (0, 31)
    """
    x, y = pixel
    return (2 * y + 1) * grid[0] // (2 * original[0]), (2 * x + 1) * grid[1] // (2 * original[1])


def box_of(position: tuple[int, int], grid: tuple[int, int], original: tuple[int, int]) -> tuple[int, int, int, int]:
    """Find the pixels that a patch position touches.

    Features depend on a wider area: each is a mean over 3 x 3 positions, each with its own receptive field.

    Parameters
    ----------
    position
        (row, column) on the grid.
    grid
        (h, w) patch positions, which cover the whole image.
    original
        (H, W) of the original image.

    Returns
    -------
    tuple of int
        `(left, top, right, bottom)` in original pixels, right and bottom exclusive.

    Examples
    --------
    >>> box_of((0, 31), (32, 32), (600, 800))
    (775, 0, 800, 19)
    """
    (row, column), (height, width) = position, original
    return (
        column * width // grid[1],
        row * height // grid[0],
        -(-(column + 1) * width // grid[1]),
        -(-(row + 1) * height // grid[0]),
    )
