"""Patches of a large image, tile by tile."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from offnominal.features import ChannelStandard, PatchExtractor
from offnominal.images import Tile, tiles_of
from offnominal.memory import Upsampling
from offnominal.roi import Layout, RegionOfInterest
from offnominal.types import Index, interior, interior_shape

#: Network sizes whose shares are kept.
MOST_SIZES = 16


@dataclass(frozen=True)
class TileRows:
    """Which patches of an image a tile contributes.

    Attributes
    ----------
    own
        (n,) rows among the patches of the tile.
    numbers
        (n,) their numbers among the patches of the image.
    """

    own: Tensor
    numbers: Index


class TiledFeatures:
    """How the tiles of an image share its patches, for the network of a member.

    A tile has a patch at each interior position of its own grid. Those near its border are computed and not used.

    Parameters
    ----------
    extractor
        Strides and channels of the network.
    side
        Side of a tile in network pixels.
    region
        Region of interest; None if the whole image counts.
    device
        Device of the network.
    """

    def __init__(self, extractor: PatchExtractor, side: int, region: RegionOfInterest | None, device: torch.device) -> None:
        self._extractor, self._side, self._device = extractor, side, device
        self._region = None if region is None or region.whole else region
        self._weights = extractor.layer_weights()
        self._shares: dict[tuple[int, int], Tensor] = {}
        self._upsamplings: dict[tuple[bool | int, ...], Upsampling | None] = {}

    def tiles(self, network: tuple[int, int], layout: Layout) -> list[tuple[Tile, TileRows]]:
        """The tiles of a network input (height, width) that have patches of a layout, and these patches."""
        stride = self._extractor.strides[0]
        grid = layout.grid
        numbers = np.full(grid[0] * grid[1], -1, np.int64)
        numbers[layout.positions] = np.arange(len(layout))
        numbers = numbers.reshape(grid)
        found = []
        for tile in tiles_of(network, self._side):
            rows, columns = (slice(part.start // stride, part.stop // stride) for part in (tile.rows, tile.columns))
            taken = numbers[rows, columns]
            row, column = np.nonzero(taken >= 0)
            if len(row) == 0:
                continue
            width = interior_shape((tile.height // stride, tile.width // stride))[1]
            own = (row + rows.start - tile.top // stride - 1) * width + column + columns.start - tile.left // stride - 1
            found.append((tile, TileRows(torch.from_numpy(own), taken[row, column])))
        return found

    def standardise(self, patches: Tensor, standard: ChannelStandard, network: tuple[int, int], rows: Tensor | None) -> Tensor:
        """Standardise patches as `FeatureEngine.standardise` does, for `rows` of the flattened grid; None for a whole image."""
        shares = self.shares(network).flatten(1).T
        share = shares if rows is None else shares[rows]
        return standard(patches) * (share @ self._weights).to(patches.device)

    def of_tile(self, patches: Tensor, standard: ChannelStandard, network: tuple[int, int], tile: Tile) -> Tensor:
        """Standardise the (n, D) raw patches of a tile."""
        share = self._share_of(network, tile).flatten(1).T
        return standard(patches) * (share @ self._weights).to(patches.device)

    def upsampling(self, network: tuple[int, int], tile: Tile) -> Upsampling | None:
        """How the features of a tile were upsampled; None in a region of interest."""
        if self._region is not None or self._device.type != "cpu":
            return None
        key = (
            tile.height,
            tile.width,
            tile.top == 0,
            tile.left == 0,
            tile.top + tile.height == network[0],
            tile.left + tile.width == network[1],
        )
        if key not in self._upsamplings:
            first = self._extractor.upsampled_from((tile.height, tile.width))
            grid = self._extractor.grid((tile.height, tile.width))
            share = self._share_of(network, tile)[-1]
            self._upsamplings[key] = None if first is None else Upsampling(first, grid, share)
        return self._upsamplings[key]

    def shares(self, network: tuple[int, int]) -> Tensor:
        """(L, h, w) share of the neighbourhood of each layer at each position inside image and region of interest."""
        if network not in self._shares:
            if len(self._shares) >= MOST_SIZES:
                self._shares.clear()
            self._shares[network] = self._extractor.inside_layers(network, self._region)
        return self._shares[network]

    def _share_of(self, network: tuple[int, int], tile: Tile) -> Tensor:
        """(L, rows, columns) shares at the interior positions of a tile."""
        stride = self._extractor.strides[0]
        top, left, height, width = (side // stride for side in (tile.top, tile.left, tile.height, tile.width))
        rows, columns = interior((height, width))
        return self.shares(network)[:, top + rows.start : top + rows.stop, left + columns.start : left + columns.stop]
