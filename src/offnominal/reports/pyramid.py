"""Pyramids of large pictures, in the layout of Deep Zoom: a viewer loads only the tiles that it shows."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import cv2
import numpy as np

from offnominal.reports.overlay import Picture

#: Side of a tile in pixels.
TILE = 512
#: Pictures with a longer side get a pyramid.
ZOOM_FROM = 3200


@dataclass(frozen=True)
class Pyramid:
    """Sizes of a pyramid.

    Attributes
    ----------
    width, height
        Size of the picture.
    tile
        Side of a tile.
    low, high
        Coarsest and finest level; each level has twice the width of the one before.

    Examples
    --------
    >>> Pyramid.of((6144, 8192))
    Pyramid(width=8192, height=6144, tile=512, low=9, high=13)
    """

    width: int
    height: int
    tile: int
    low: int
    high: int

    @classmethod
    def of(cls, size: tuple[int, ...]) -> Pyramid:
        """The pyramid of a picture of (H, W) pixels; its coarsest level is one tile."""
        high = math.ceil(math.log2(max(size[:2])))
        return cls(size[1], size[0], TILE, min(high, math.ceil(math.log2(TILE))), high)


def pyramid_tiles(picture: Picture) -> Iterator[tuple[str, Picture]]:
    """Name and pixels of each tile of an (H, W, 3) picture, the finest level first; a name is `LEVEL/COLUMN_ROW.jpg`.

    Examples
    --------
    >>> [name for name, _ in pyramid_tiles(np.zeros((600, 600, 3), np.uint8))]
    ['10/0_0.jpg', '10/1_0.jpg', '10/0_1.jpg', '10/1_1.jpg', '9/0_0.jpg']
    """
    pyramid = Pyramid.of(picture.shape)
    for level in range(pyramid.high, pyramid.low - 1, -1):
        scale = 2 ** (pyramid.high - level)
        size = math.ceil(pyramid.width / scale), math.ceil(pyramid.height / scale)
        if picture.shape[1::-1] != size:
            picture = np.asarray(cv2.resize(picture, size, interpolation=cv2.INTER_AREA), np.uint8)
        for top in range(0, size[1], TILE):
            for left in range(0, size[0], TILE):
                yield f"{level}/{left // TILE}_{top // TILE}.jpg", picture[top : top + TILE, left : left + TILE]
