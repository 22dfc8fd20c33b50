"""Large images in tiles: the network sees one tile at a time, and the patches of all tiles form one grid.

Neighbouring tiles overlap. Each patch comes from the tile in which it lies deepest, so that it hardly depends on where the
tiles end. Pixels are scaled when their tile is cut, so an image takes little more memory than its stored values.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from offnominal.images.value_range import ValueRange
from offnominal.types import Float, Mask, require

#: Network pixels between the border of a tile and the patches that are taken from it, at least. With half of it, the border
#: changes peaks by up to 4 %.
MARGIN = 64
#: Tiles start at multiples of this number of network pixels, a multiple of the strides of all backbones.
ALIGNED = 32


@dataclass(frozen=True)
class Tile:
    """A tile of an image, in network pixels.

    Attributes
    ----------
    top, left, height, width
        Where it lies in the image.
    rows, columns
        Network pixels of the image whose patches are taken from this tile.

    Examples
    --------
    >>> [(tile.left, tile.columns.start, tile.columns.stop) for tile in tiles_of((256, 512), 256)]
    [(0, 0, 192), (128, 192, 320), (256, 320, 512)]
    """

    top: int
    left: int
    height: int
    width: int
    rows: slice
    columns: slice


def tiles_of(network: tuple[int, int], side: int) -> list[Tile]:
    """Divide a network input (height, width) into overlapping tiles of at most `side` x `side`, row by row.

    Examples
    --------
    >>> len(tiles_of((256, 256), 512)), len(tiles_of((1024, 1024), 512))
    (1, 9)
    """
    require(side % ALIGNED == 0 and side > 2 * MARGIN, f"a tile of {side} pixels is no multiple of {ALIGNED}")
    return [
        Tile(top, left, min(side, network[0]), min(side, network[1]), rows, columns)
        for top, rows in _parts(network[0], side)
        for left, columns in _parts(network[1], side)
    ]


def _parts(length: int, side: int) -> list[tuple[int, slice]]:
    """Start of each tile along one side of an image, and the pixels that are taken from it."""
    if length <= side:
        return [(0, slice(0, length))]
    step = side - 2 * MARGIN
    starts = [*range(0, length - side, step), length - side]
    inner = [(first + side + second) // 2 // ALIGNED * ALIGNED for first, second in pairwise(starts)]
    bounds = pairwise([0, *inner, length])
    return [(start, slice(low, high)) for start, (low, high) in zip(starts, bounds, strict=True)]


class LargeImage:
    """The view of a network that sees an image in tiles.

    Parameters
    ----------
    pixels
        (H, W) or (H, W, C) stored values, in network pixels.
    values
        Value range.
    name
        Name of the image for messages.
    inside
        (H, W) pixels of the region of interest; None if all count.
    fill
        (C,) colour of the other pixels, about 0 to 1.

    Examples
    --------
    >>> from offnominal.images.value_range import EIGHT_BIT
    >>> large = LargeImage(np.full((256, 512), 51, np.uint8), EIGHT_BIT, "a.png")
    >>> large.shape, large.cut(tiles_of((256, 512), 256)[0]).shape
    ((1, 3, 256, 512), (1, 3, 256, 256))
    """

    def __init__(
        self, pixels: npt.NDArray[Any], values: ValueRange, name: str, inside: Mask | None = None, fill: Float | None = None
    ) -> None:
        self._pixels, self._values, self._name, self._inside, self._fill = pixels, values, name, inside, fill
        self.shape = (1, 3, pixels.shape[0], pixels.shape[1])

    def cut(self, tile: Tile) -> Float:
        """(1, 3, height, width) float32 pixels of a tile, about 0 to 1."""
        at = slice(tile.top, tile.top + tile.height), slice(tile.left, tile.left + tile.width)
        scaled = self._values.scale(self._pixels[at], self._name).reshape(tile.height, tile.width, -1)
        if self._inside is not None and self._fill is not None:
            scaled = np.where(self._inside[at][:, :, None], scaled, self._fill)
        tall = np.broadcast_to(scaled, (tile.height, tile.width, 3)).transpose(2, 0, 1)
        return np.ascontiguousarray(tall)[None]


#: What a network sees of a batch: (B, 3, height, width) float32, or one large image.
View = Float | LargeImage
