"""Products of patches with a bank, at fewer multiplications where features were brought up from a map of half as many places.

A feature of a deeper layer is, at each of the finest places, a mean of four places of its own map with weights that are known:
q = share * sum_i w_i c_i. So is its product with a bank patch b: q b = share * sum_i w_i (c_i b). Formed at the quarter of the
places that the layer has and interpolated, it is the same but for how float32 is rounded, at less than half the
multiplications. `PatchExtractor` of Lite0 gives 40 fine and 112 such features.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from offnominal.memory.compiled import address, threads
from offnominal.types import interior, interior_shape, require

#: Bank patches of one part of a bank that is searched part by part, at most.
MOST_AT_ONCE = 512


class Upsampling:
    """That of patches at the whole places of a grid (h, w), both even, the features from `first` on are those of a map
    (h / 2, w / 2), brought to the grid bilinearly (`align_corners=False`) and multiplied by `share`, above 0. The others are as
    they are.

    Attributes:
        first: the first of those features.
        share: (rows, columns) of the whole places.
        half: (h / 2, w / 2).
        corners: (N, 4) int64, for every whole place the four of the map that it lies between.
        weights: (N, 4) float32, what they count there, times the share.
    """

    def __init__(self, first: int, grid: tuple[int, int], share: Tensor) -> None:
        height, width = grid
        require(height % 2 == 0 and width % 2 == 0, f"the grid must be even, got {height} x {width}")
        require(tuple(share.shape) == interior_shape(grid), f"share must be {interior_shape(grid)}, got {tuple(share.shape)}")
        self.first, self.share, self.half = first, share.float(), (height // 2, width // 2)
        whole_rows, whole_columns = interior(grid)
        rows, columns = _interpolation(self.half[0])[whole_rows], _interpolation(self.half[1])[whole_columns]
        self._rows, self._columns = torch.linalg.pinv(rows).float(), torch.linalg.pinv(columns).float()
        (above, of_above), (left, of_left) = _two(rows), _two(columns)
        self.corners = _flat(above[:, None, :, None] * self.half[1] + left[:, None])
        self.weights = _flat(of_above[:, None, :, None] * of_left[:, None] * self.share[:, :, None, None].double()).float()

    def map(self, patches: Tensor) -> Tensor:
        """(N, D) -> (h w / 4, D - first): the map that the features were brought up from."""
        upsampled = (patches[:, self.first :].unflatten(0, self.share.shape) / self.share[:, :, None]).flatten(1)
        fewer_rows = (self._rows @ upsampled).unflatten(1, (self.share.shape[1], -1))
        return torch.matmul(self._columns, fewer_rows).flatten(0, 1)


class UpsampledBank:
    """Exact search in a float32 bank (M, D) on a CPU, of patches that are known to be so."""

    def __init__(self, bank: Tensor) -> None:
        self._bank = bank
        self._squares = bank.square().sum(1, keepdim=True)

    def __call__(self, patches: Tensor, k: int, upsampling: Upsampling) -> tuple[Tensor, Tensor]:
        """(N, D) float32 -> (N, K) squared distances, ascending, and (N, K) int64 rows of the bank.

        Where values are not finite, or their squares are not, a row may be -1 or a distance not a number.
        """
        fine = upsampling.first
        coarse = upsampling.map(patches).mul_(-2)
        own = F.pad(patches[:, :fine] * -2, (0, 1), value=1.0)
        bank = torch.cat([self._bank[:, :fine], self._squares], 1)
        squared, rows = torch.full((len(patches), k), torch.inf), torch.full((len(patches), k), -1)
        count = min(MOST_AT_ONCE, len(bank))
        buffers = [torch.empty(len(part) * count) for part in (coarse, own)]
        # Greedy k-center takes what is rare first. What is common is nearest to most patches, and the sooner they meet it, the
        # less often a nearer one is found.
        for start in reversed(range(0, len(bank), count)):
            part = slice(start, min(start + count, len(bank)))
            n = part.stop - start
            of_coarse, of_fine = (buffer[: len(buffer) // count * n].view(-1, n) for buffer in buffers)
            torch.mm(coarse, self._bank[part, fine:].T, out=of_coarse)
            torch.mm(own, bank[part].T, out=of_fine)
            nearest((of_coarse, of_fine), (upsampling.corners, upsampling.weights), start, (squared, rows))
        return squared.add_(patches.square().sum(1, keepdim=True)).clamp_(min=0), rows


def nearest(products: Sequence[Tensor], of_patches: Sequence[Tensor], first: int, found: Sequence[Tensor]) -> None:
    """Put what is nearer in one more part of a bank to what was found in others.

    Args:
        products: float32 (places, n) of the map's features with n bank patches, and (N, n) of the others; their sum, after the
            first was interpolated, is what is compared.
        of_patches: `corners` and `weights` of `Upsampling`.
        first: row of the first of the n bank patches.
        found: (N, K) float32, ascending, and (N, K) int64 rows of the bank: infinite and -1 before the first part.

    Raises:
        ValueError: tensors of another type or shape, or whose values do not lie one after another.
    """
    from offnominal.memory import _upsampled

    (coarse, fine), (corners, weights), (squared, rows) = products, of_patches, found
    count, k, n = *squared.shape, fine.shape[1]
    require(0 < n <= MOST_AT_ONCE, f"at most {MOST_AT_ONCE} bank patches at once, got {n}")
    addresses = [address(coarse, torch.float32, (len(coarse), n)), address(fine, torch.float32, (count, n))]
    addresses += [address(corners, torch.int64, (count, 4)), address(weights, torch.float32, (count, 4))]
    addresses += [address(squared, torch.float32, (count, k)), address(rows, torch.int64, (count, k))]
    _upsampled.nearest(tuple(addresses), (count, n, k, first), threads(count))


def _interpolation(places: int) -> Tensor:
    """(2 n, n) float64 weights that bring n places to 2 n."""
    unit = torch.eye(places, dtype=torch.float64)[None]
    return F.interpolate(unit, size=2 * places, mode="linear", align_corners=False)[0].T.contiguous()


def _two(weights: Tensor) -> tuple[Tensor, Tensor]:
    """(places, n) weights, at most two of a row above 0 -> (places, 2) which, and those."""
    count = min(2, weights.shape[1])
    values, which = weights.topk(count, 1)
    return F.pad(which, (0, 2 - count)), F.pad(values, (0, 2 - count))


def _flat(of_corners: Tensor) -> Tensor:
    """(rows, columns, 2, 2) -> (rows columns, 4)."""
    return of_corners.flatten(2).flatten(0, 1).contiguous()
