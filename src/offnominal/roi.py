"""Regions of interest: which pixels of an image count, and which positions of its grid then have a patch.

OpenCV is imported where it is used, because settings hold a region and the help of the commands reads settings.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from offnominal.types import Float, Index, Mask, interior, interior_shape, require

#: Largest relative difference between the aspect ratios of an image and of the region.
ASPECT = 0.02
#: Longest side of a stored region in pixels: finer than the grid of any network.
MOST_SIDE = 4096
#: Largest mask that is kept for the next image, in pixels.
MOST_CACHED = 1_000_000


@dataclass(frozen=True)
class RegionOfInterest:
    """The pixels of an image that count. Others are neither learned from nor scored.

    The region applies to images of any size with its aspect ratio.

    Parameters
    ----------
    size
        (H, W) of the mask.
    packed
        Its bits, row by row, as `numpy.packbits` packs them.

    Examples
    --------
    >>> mask = np.zeros((4, 6), bool)
    >>> mask[:, :3] = True
    >>> region = RegionOfInterest.of(mask)
    >>> region.share, region.at((2, 2)).tolist()
    (0.5, [[True, False], [True, False]])
    """

    size: tuple[int, int]
    packed: bytes

    def __post_init__(self) -> None:
        height, width = self.size
        require(1 <= height <= MOST_SIDE and 1 <= width <= MOST_SIDE, f"a region of {height} x {width} pixels is too large")
        require(len(self.packed) == -(-height * width // 8), f"{len(self.packed)} bytes are no mask of {height} x {width}")
        require(bool(self.mask.any()), "the region of interest is empty")

    @classmethod
    def of(cls, mask: Mask) -> RegionOfInterest:
        """The region of an (H, W) mask; a large one is reduced to `MOST_SIDE`. Raises `ValueError` if it is empty."""
        height, width = mask.shape
        factor = MOST_SIDE / max(height, width)
        if factor < 1:
            mask = resized(mask, (max(1, round(height * factor)), max(1, round(width * factor))))
        return cls((mask.shape[0], mask.shape[1]), np.packbits(mask).tobytes())

    @cached_property
    def mask(self) -> Mask:
        """(H, W) bool."""
        height, width = self.size
        bits = np.unpackbits(np.frombuffer(self.packed, np.uint8), count=height * width)
        return bits.reshape(height, width).astype(np.bool_)

    @property
    def share(self) -> float:
        """Share of the pixels that count."""
        return float(self.mask.mean())

    @property
    def whole(self) -> bool:
        """Whether every pixel counts."""
        return bool(self.mask.all())

    def suits(self, size: tuple[int, int]) -> bool:
        """Whether an image of (H, W) pixels has the aspect ratio of the region."""
        return same_aspect(self.size, size)

    def unsuited(self, size: tuple[int, int]) -> str:
        """What is wrong with an image of (H, W) pixels that the region does not suit."""
        return (
            f"is {size[1]} x {size[0]}, and the region of interest was drawn for {self.size[1]} x {self.size[0]}; draw it on "
            "an image of this shape"
        )

    def at(self, size: tuple[int, int]) -> Mask:
        """(h, w) bool: the cells of an image divided into (h, w) of which at least half counts. Not to be changed."""
        return _at(self, size) if size[0] * size[1] <= MOST_CACHED else resized(self.mask, size)


@lru_cache(maxsize=32)
def _at(region: RegionOfInterest, size: tuple[int, int]) -> Mask:
    return resized(region.mask, size)


def same_aspect(size: tuple[int, ...], other: tuple[int, ...]) -> bool:
    """Whether two (H, W) have the same aspect ratio, but for 2 % and a pixel.

    Examples
    --------
    >>> same_aspect((480, 640), (256, 341)), same_aspect((480, 640), (256, 256))
    (True, False)
    """
    return abs(size[1] * other[0] / (size[0] * other[1]) - 1) <= ASPECT + 1 / min(*size, *other)


def resized(mask: Mask, size: tuple[int, ...]) -> Mask:
    """A mask at another size; a cell is set if at least half of it is."""
    if mask.shape == size:
        return mask
    import cv2

    share = cv2.resize(mask.astype(np.float32), size[::-1], interpolation=cv2.INTER_AREA)
    return np.asarray(share >= 0.5, dtype=np.bool_)


class Layout:
    """Where the patches of an image lie on its grid.

    A patch averages 3 x 3 positions. Positions at the border of the image or of the region of interest have none, because a
    part of their neighbourhood lies outside.

    Parameters
    ----------
    grid
        (h, w) of the grid.
    region
        Region of interest; None if the whole image counts.

    Attributes
    ----------
    grid
        (h, w).
    positions
        (N,) positions with a patch, as indices into the flattened grid, row by row.
    complete
        Whether all interior positions have a patch.

    Raises
    ------
    ValueError
        The region contains no position.

    Examples
    --------
    >>> layout = Layout((3, 4))
    >>> layout.positions.tolist(), layout.fill(np.array([[1], [2]]))[:, :, 0].tolist()
    ([5, 6], [[1, 1, 2, 2], [1, 1, 2, 2], [1, 1, 2, 2]])
    """

    def __init__(self, grid: tuple[int, int], region: RegionOfInterest | None = None) -> None:
        self.grid = grid
        inner = np.zeros(grid, np.bool_)
        inner[interior(grid)] = True
        if region is not None and not region.whole:
            import cv2

            inside = region.at(grid)
            # Outside of the image, everything counts as inside: only the border of the region is eroded here.
            kernel = np.ones((3, 3), np.uint8)
            eroded = cv2.erode(inside.astype(np.uint8), kernel, borderType=cv2.BORDER_CONSTANT, borderValue=1) > 0
            require(bool((inner & eroded).any()), "the region of interest is smaller than 3 x 3 patches")
            inner &= eroded
        self._inner = inner
        self.positions: Index = np.flatnonzero(inner).astype(np.int64)
        self.complete = len(self.positions) == int(np.prod(interior_shape(grid)))

    def __len__(self) -> int:
        return len(self.positions)

    @cached_property
    def nearest(self) -> Index:
        """(h w,) number of the patch that is nearest to each position."""
        height, width = self.grid
        numbers = np.full(height * width, -1, np.int64)
        numbers[self.positions] = np.arange(len(self.positions))
        if self.complete:
            rows, columns = (
                np.clip(np.arange(side), inside.start, inside.stop - 1)
                for inside, side in zip(interior(self.grid), self.grid, strict=True)
            )
            repeated: Index = numbers.reshape(self.grid)[np.ix_(rows, columns)].ravel()
            return repeated
        return numbers[_nearest(self._inner)]

    def shown(self, inside: Mask) -> Index:
        """(N,) number of the patch nearest to each patch among those whose positions lie inside an (h, w) mask.

        All patches are their own if none lies inside.

        Examples
        --------
        >>> Layout((3, 4)).shown(np.array([[True, True, False, False]] * 3)).tolist()
        [0, 0]
        """
        known = self._inner & inside
        if not known.any():
            return np.arange(len(self))
        return self.nearest[_nearest(known)[self.positions]]

    def fill(self, values: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """(N, S) values of the patches -> (h, w, S); positions without a patch repeat the nearest one."""
        filled: npt.NDArray[Any] = values.reshape(len(self), -1).take(self.nearest, axis=0)
        return filled.reshape(*self.grid, -1)

    def at(self, numbers: Index) -> Index:
        """(n, 2) row and column of patches, by number."""
        row, column = np.divmod(self.positions[numbers], self.grid[1])
        return np.stack([row, column], axis=1)

    def number(self, row: int, column: int) -> int:
        """Number of the patch nearest to a position."""
        return int(self.nearest[row * self.grid[1] + column])


def _nearest(mask: Mask) -> Index:
    """(h w,) position nearest to each position where an (h, w) mask is set, as indices into the flattened grid."""
    import cv2

    _, labels = cv2.distanceTransformWithLabels(
        1 - mask.astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_5, labelType=cv2.DIST_LABEL_PIXEL
    )
    position_of = np.zeros(int(labels.max()) + 1, np.int64)
    position_of[labels[mask]] = np.flatnonzero(mask)
    nearest: Index = position_of[labels.ravel()]
    return nearest


def outside_lowered(scores: Float, region: RegionOfInterest | None) -> Float:
    """An (h, w) anomaly map whose values outside of the region are the lowest inside, so that they are never its maximum.

    Examples
    --------
    >>> region = RegionOfInterest.of(np.array([[True, False]]))
    >>> outside_lowered(np.array([[1.0, 9.0]], np.float32), region)
    array([[1., 1.]], dtype=float32)
    """
    if region is None or region.whole:
        return scores
    inside = region.at((scores.shape[0], scores.shape[1]))
    lowered: Float = np.where(inside, scores, scores[inside].min())
    return lowered
