"""Exact greedy k-center selection with few passes over the patches.

The naive loop computes the distance of every patch to every new centre. Three observations make most of that unnecessary:

* Distances only decrease as centres are added, so an old distance is an upper bound. Only patches with the largest bounds are
  updated; the others cannot be the farthest.
* Bounds come from float32 matrix products with a known rounding error. The distances of the few patches that may be the
  farthest are computed in float64, and the greedy order is followed exactly while the farthest lies above every other bound.
* If rounding hides the order of thousands of patches, as in flat images, all bounds are replaced by exact float64 distances,
  which is slower but exact.

So the selection equals the naive one: the farthest patch, the lowest index among equals. Patches on disk are read in ascending
rows and in blocks (`PatchRows`); only the length, the bound and the number of seen centres of each patch are kept in memory.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from offnominal.memory.exact_distances import pairwise_squared, rounded, squared_to
from offnominal.memory.pruning import MAX_FEATURES, PrunedCentres, register_bits
from offnominal.memory.store import PatchRows
from offnominal.types import Index, require

#: Patches whose bounds are updated together, and those among them whose order is computed exactly.
UPDATED = 16384
EXACT = 512
MAX_EXACT = 4096
#: Patches (per two threads, and in total) and centres in one matrix product; small, so that products stay in the cache.
ROWS, MAX_ROWS = 1024, 8192
CENTRES = 2048
#: Candidate pruning is used from this number of new centres on. Its scale leaves out the few patches with the largest values.
PRUNED_CENTRES, OUTLIERS = 64, 16
#: Low bits of a float32 bound that its bin ignores; bins are 0.2 % wide.
LOW_BITS = 14
_SELECTED = -1.0
_NONE = -2.0


class GreedyKCenter:
    """State of one selection: for every patch an upper bound of its squared distance, and the centres that it accounts for."""

    def __init__(self, patches: PatchRows, n: int, start: int) -> None:
        self.patches, self.n = patches, n
        self.rows_per_product = min(MAX_ROWS, ROWS * max(1, torch.get_num_threads() // 2))
        self.dtype = torch.float64 if patches.dtype == torch.float64 else torch.float32
        # Centring the patches keeps distances and reduces the rounding error of products.
        # Sums are computed in place: small results allocated between large temporaries would fragment the memory.
        self.mean = torch.zeros(patches.shape[1], dtype=torch.float64)
        for block in patches.blocks(ROWS):
            self.mean += block.sum(0, dtype=torch.float64)
        self.mean /= len(patches)
        prune = self.dtype == torch.float32 and patches.shape[1] <= MAX_FEATURES and register_bits() > 0
        self.square, reach = torch.empty(len(patches), dtype=self.dtype), torch.empty(len(patches) if prune else 0)
        for number, block in enumerate(patches.blocks(ROWS)):
            part, centred = slice(number * ROWS, number * ROWS + len(block)), self._centred(block)
            torch.linalg.vecdot(centred, centred, out=self.square[part])
            if prune:
                torch.amax(centred.abs_(), 1, out=reach[part])
        require(bool(self.square.isfinite().all()), "patches must be finite")
        #: Relative rounding error of a D-term product (random-walk growth, with a safety factor of 4).
        self.rounding = 4 * torch.finfo(self.dtype).eps * (patches.shape[1] + 4) ** 0.5
        self.centres = torch.empty((n, patches.shape[1]), dtype=self.dtype)
        self.lengths = torch.empty(n, dtype=self.dtype)
        self.exact_centres = torch.empty((n, patches.shape[1]), dtype=torch.float64)
        self.selected: list[int] = []
        self.bound = torch.full((len(patches),), torch.inf, dtype=self.dtype)
        #: Whether bounds are exact distances to the centres that a patch has seen.
        self.bounds_are_exact = False
        self.seen = torch.zeros(len(patches), dtype=torch.int32)
        self.pruned: PrunedCentres | None = None
        if prune:
            self.pruned = PrunedCentres(self.centres, float(reach.topk(min(OUTLIERS + 1, len(reach))).values[-1]))
        self.product = torch.empty(max(self.rows_per_product * CENTRES, n), dtype=self.dtype)
        self._select([start], self.patches[torch.tensor([start])])
        self._update(torch.arange(len(patches))[self.bound == torch.inf])  # all patches in one pass

    def run(self, tick: Callable[[int], None]) -> tuple[Index, float]:
        """Select the remaining patches; return the indices in the order of selection, and the covering radius."""
        exact = EXACT
        while len(self.selected) < self.n:
            rows, outside = _about_largest(self.bound, UPDATED)
            self._update(rows)
            bounds = self.bound[rows]
            if float(bounds.max()) < outside:
                continue  # other patches have the largest bounds now
            positions, inside = _largest(bounds, exact)
            count = self._select_from(rows[positions].sort().values, max(outside, inside))
            if count == 0 and exact < MAX_EXACT:
                exact *= 2  # more near-ties than the block holds
            elif count == 0 and not self.bounds_are_exact:
                self._make_bounds_exact()
                exact = EXACT
            elif count == 0:
                self._select_farthest()
            tick(len(self.selected))
        return np.array(self.selected, dtype=np.int64), self._radius()

    def _centred(self, block: Tensor) -> Tensor:
        return block.to(self.dtype) - self.mean.to(self.dtype)

    def _select(self, indices: list[int], points: Tensor) -> None:
        """Add patches to the centres; `points` are their features."""
        done = len(self.selected)
        self.exact_centres[done : done + len(indices)] = points
        centred = self._centred(points)
        self.centres[done : done + len(indices)] = centred
        if self.pruned is not None:
            self.pruned.add(done, done + len(indices))
        self.lengths[done : done + len(indices)] = centred.square().sum(1)
        self.selected += indices
        self.bound[indices] = _SELECTED

    def _update(self, rows: Tensor) -> None:
        """Update the bounds of patches (ascending rows) with all centres."""
        count = len(self.selected)
        distances = self._exact_distances if self.bounds_are_exact else self._distance_bounds
        seen = self.seen[rows]
        outdated = torch.nonzero(seen < count).flatten()
        outdated = outdated[seen[outdated].argsort(stable=True)]  # a product starts at the fewest centres seen in its block
        for first in range(0, len(outdated), self.rows_per_product):
            block = outdated[first : first + self.rows_per_product]
            part, done = rows[block].sort().values, int(seen[block[0]])
            self.bound[part] = torch.minimum(self.bound[part], distances(part, done))
        self.seen[rows] = count

    def _distance_bounds(self, part: Tensor, done: int) -> Tensor:
        """Upper bounds of the squared distances to the nearest centre after the first `done`."""
        squared = self._nearest(self._centred(self.patches[part]), self.square[part], done)
        # A centre at distance d from a patch of length r has a length of at most r + d, which bounds the rounding error.
        return squared.add_(self.rounding * (2 * self.square[part].sqrt() + squared.sqrt()).square())

    def _exact_distances(self, part: Tensor, done: int) -> Tensor:
        """Exact squared distances to the nearest centre after the first `done`."""
        points = self.patches[part].double()
        if done == 0:
            return torch.from_numpy(self._to_centres(points))
        least = torch.full((len(points),), torch.inf, dtype=torch.float64)
        for centre in self.exact_centres[done : len(self.selected)]:
            torch.minimum(least, torch.from_numpy(squared_to(points, centre)), out=least)
        return least

    def _make_bounds_exact(self) -> None:
        """Replace the bounds by exact distances, each when its patch is next updated."""
        self.bounds_are_exact = True
        self.bound = self.bound.double()
        self.seen.zero_()

    def _nearest(self, points: Tensor, squares: Tensor, done: int) -> Tensor:
        """(n,) squared distances of points, with squared lengths `squares`, to the nearest centre after the first `done`.

        The precision is that of float32 products.
        """
        if self.pruned is None or len(self.selected) - done < PRUNED_CENTRES:
            return self._by_product(points, done).add_(squares).clamp_(min=0)
        squared, exact = self.pruned(points, done, len(self.selected))
        remaining = torch.nonzero(~exact).flatten()
        if len(remaining):
            squared[remaining] = self._by_product(points[remaining], done).add_(squares[remaining]).clamp_(min=0)
        if 2 * len(remaining) > len(points):
            self.pruned = None  # the centres are too similar for pruning
        return squared

    def _by_product(self, points: Tensor, done: int) -> Tensor:
        """(n,) minimum over the centres of |c|^2 - 2 p c, in blocks that fit in the cache."""
        centres, lengths = self.centres[done : len(self.selected)], self.lengths[done : len(self.selected)]
        least = torch.full((len(points),), torch.inf, dtype=self.dtype)
        for block, block_lengths in zip(centres.split(CENTRES), lengths.split(CENTRES), strict=True):
            product = self.product[: len(points) * len(block)].view(len(points), len(block))
            torch.addmm(block_lengths[None], points, block.T, alpha=-2, out=product)
            torch.minimum(least, product.amin(1), out=least)
        return least

    def _select_from(self, block: Tensor, limit: float) -> int:
        """Follow the exact greedy order within a block (ascending rows) while its farthest lies above `limit`.

        Returns the number of selected patches.
        """
        features = self.patches[block]
        points = features.double()
        if self.bounds_are_exact:
            distance, between = self.bound[block].numpy(), None
        else:
            distance, centred = self._to_centres(points), points - self.mean
            distance[self.bound[block].numpy() < 0] = _SELECTED
            between = pairwise_squared(centred, centred)
        picks: list[int] = []
        while len(self.selected) + len(picks) < self.n:
            farthest = int(distance.argmax())
            if distance[farthest] <= limit:
                break
            picks.append(farthest)
            np.minimum(distance, squared_to(points, points[farthest]) if between is None else between[farthest], out=distance)
            distance[farthest] = _SELECTED
        self._select(block[picks].tolist(), features[picks])
        return len(picks)

    def _select_farthest(self) -> None:
        """Select the first of thousands of equally far patches."""
        remaining = torch.nonzero(self.bound >= 0).flatten()
        self._update(remaining)
        farthest = self.bound.numpy().argmax()
        # If only duplicates of the centres remain, select them in their order.
        picks = torch.tensor([farthest]) if self.bound[farthest] > 0 else remaining[: self.n - len(self.selected)]
        self._select(picks.tolist(), self.patches[picks])

    def _to_centres(self, points: Tensor) -> npt.NDArray[np.float64]:
        """Exact squared distances of float64 points to their nearest centres.

        Products in the working precision leave one or two centres that may be the nearest; these are compared in float64.
        """
        parts = points.split(max(1, len(self.product) // len(self.selected)))
        return rounded(torch.cat([self._part_to_centres(part) for part in parts]))

    def _part_to_centres(self, points: Tensor) -> Tensor:
        count, centred = len(self.selected), (points - self.mean).to(self.dtype)
        lengths = centred.square().sum(1)
        squared = self.product[: len(points) * count].view(len(points), count)
        torch.addmm(self.lengths[None, :count], centred, self.centres[:count].T, alpha=-2, out=squared).add_(lengths[:, None])
        least = squared.amin(1).clamp_(min=0)
        margin = 2 * self.rounding * (2 * lengths.sqrt() + least.sqrt()).square()
        candidates = torch.nonzero(squared <= (least + margin)[:, None])
        nearest = torch.full((len(points),), torch.inf, dtype=torch.float64)
        for row, centre in (part.unbind(1) for part in candidates.split(16384)):
            exact = (points[row] - self.exact_centres[centre]).square_().sum(1)
            nearest.scatter_reduce_(0, row, exact, "amin")
        return nearest

    def _radius(self) -> float:
        """Covering radius: update the largest bounds until the farthest patch is certain."""
        while True:
            rows, outside = _about_largest(self.bound, UPDATED)
            self._update(rows)
            bounds = self.bound[rows]
            if float(bounds.max()) < outside:
                continue
            if self.bounds_are_exact:
                return float(bounds.clamp(min=0).max().sqrt())
            positions, inside = _largest(bounds, EXACT)
            farthest = self._to_centres(self.patches[rows[positions]].double()).max()
            if farthest >= max(outside, inside):
                return float(np.sqrt(farthest))
            self._make_bounds_exact()


def _largest(values: Tensor, count: int) -> tuple[Tensor, float]:
    """Ascending positions of the `count` largest values, and the largest of the others (below all values if there are none)."""
    if count >= len(values):
        return torch.arange(len(values)), _NONE
    top = torch.topk(values, count + 1, sorted=False)
    least = int(top.values.argmin())
    keep = torch.arange(count + 1) != least
    return top.indices[keep].sort().values, float(top.values[least])


def _about_largest(values: Tensor, count: int) -> tuple[Tensor, float]:
    """Like `_largest`, but faster: up to `count` positions, and an upper bound of the other values.

    The bit patterns of non-negative floats increase with their value, so the high bits sort values into bins.
    """
    if count < len(values) and values.dtype == torch.float32:
        bins = np.bincount(np.maximum(values.numpy().view(np.int32) >> LOW_BITS, 0), minlength=1 << (31 - LOW_BITS))
        kept = int(np.searchsorted(np.cumsum(bins[::-1]), count, side="right"))  # number of bins, from the largest values
        least = np.int32((len(bins) - kept) << LOW_BITS).view(np.float32)
        rows = torch.nonzero(values >= float(least)).flatten()
        if 2 * len(rows) > count:
            return rows, float(least)
    return _largest(values, count)
