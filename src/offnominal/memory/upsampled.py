"""Products of patches with a bank, at fewer multiplications where features were brought up from a map of half as many places.

A feature of a deeper layer is, at each of the finest places, a mean of four places of its own map with weights that are known:
q = share * sum_i w_i c_i. So is its product with a bank patch b: q b = share * sum_i w_i (c_i b). Formed at the quarter of the
places that the layer has and interpolated, first between its rows and then along them, it is the same but for how float32 is
rounded, at less than half the multiplications. `PatchExtractor` of Lite0 gives 40 fine and 112 such features.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from offnominal.types import require, whole, whole_grid

#: Bank patches that are multiplied at once, so that what comes of it stays in the processor's cache.
COLUMNS = 512


class Upsampling:
    """That of patches at the whole places of a grid (h, w), both even, the features from `first` on are those of a map
    (h / 2, w / 2), brought to the grid bilinearly (`align_corners=False`) and multiplied by `share`, above 0. The others are as
    they are.

    Attributes:
        first: the first of those features.
        share: (rows, columns) of the whole places.
        half: (h / 2, w / 2).
        rows: those of the grid that are whole.
        weights: (rows, columns, w / 2): a row of the whole places from what lies on its height in the map.
    """

    def __init__(self, first: int, grid: tuple[int, int], share: Tensor) -> None:
        height, width = grid
        require(height % 2 == 0 and width % 2 == 0, f"the grid must be even, got {height} x {width}")
        require(tuple(share.shape) == whole_grid(grid), f"share must be {whole_grid(grid)}, got {tuple(share.shape)}")
        self.first, self.share, self.half = first, share.float(), (height // 2, width // 2)
        self.rows, whole_columns = whole(grid)
        rows, columns = _interpolation(self.half[0])[self.rows], _interpolation(self.half[1])[whole_columns]
        self._rows, self._columns = torch.linalg.pinv(rows).float(), torch.linalg.pinv(columns).float()
        self.weights = columns.float() * self.share[:, :, None]

    def map(self, patches: Tensor) -> Tensor:
        """(N, D) -> (h w / 4, D - first): the map that the features were brought up from."""
        upsampled = (patches[:, self.first :].unflatten(0, self.share.shape) / self.share[:, :, None]).flatten(1)
        fewer_rows = (self._rows @ upsampled).unflatten(1, (self.share.shape[1], -1))
        return torch.matmul(self._columns, fewer_rows).flatten(0, 1)


class UpsampledProducts:
    """Squared distances to a float32 bank (M, D) on a CPU, but for a term of the patch alone."""

    def __init__(self, bank: Tensor) -> None:
        self._bank = bank
        self._squares = bank.square().sum(1, keepdim=True)

    def __call__(self, patches: Tensor, upsampling: Upsampling) -> Iterator[tuple[int, Tensor]]:
        """(N, D) float32 -> which bank patch is the first and (N, n) |b|^2 - 2 q b, part by part.

        A part is valid until the next is asked for.
        """
        (height, width), fine = upsampling.half, upsampling.first
        coarse = upsampling.map(patches).mul_(-2)
        own = F.pad(patches[:, :fine] * -2, (0, 1), value=1.0)
        bank = torch.cat([self._bank[:, :fine], self._squares], 1)
        count = min(COLUMNS, len(bank))
        tall, wide = upsampling.share.shape
        buffers = [torch.empty(size * count) for size in ((height + 2) * width, 2 * height * width, tall * wide)]
        # Greedy k-center takes what is rare first. What is common is nearest to most patches, and the sooner they meet it, the
        # less often a nearer one is found.
        for start in reversed(range(0, len(bank), count)):
            stop = min(start + count, len(bank))
            n = stop - start
            rows, between = (buffer[: len(buffer) // count * n].view(-1, width * n) for buffer in buffers[:2])
            grid = buffers[2][: tall * wide * n].view(tall, wide, n)
            torch.mm(coarse, self._bank[start:stop, fine:].T, out=rows[1:-1].view(-1, n))
            rows[0], rows[-1] = rows[1], rows[-2]  # the map goes on as it ends
            torch.lerp(rows[1:-1], rows[:-2], 0.25, out=between[::2])
            torch.lerp(rows[1:-1], rows[2:], 0.25, out=between[1::2])
            torch.bmm(upsampling.weights, between.view(2 * height, width, n)[upsampling.rows], out=grid)
            yield start, grid.view(-1, n).addmm_(own, bank[start:stop].T)


def _interpolation(places: int) -> Tensor:
    """(2 n, n) float64 weights that bring n places to 2 n."""
    unit = torch.eye(places, dtype=torch.float64)[None]
    return F.interpolate(unit, size=2 * places, mode="linear", align_corners=False)[0].T.contiguous()
