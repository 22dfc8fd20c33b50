"""Which patches the memory bank keeps: random, or greedy k-center.

Greedy k-center (Gonzalez 1985; PatchCore's choice, Roth et al. 2022, section 3.2) starts at one patch and then always takes
the patch farthest from those taken. Done naively, each centre costs one pass over all patches. Here the passes are few:

* Distances only fall as centres are added, so a distance that is out of date is an upper bound. Only patches whose bound
  is among the largest are brought up to date; the others can never be the farthest and wait, often for ever.
* Bounds come from float32 matrix products with a known rounding error. Among the few that could be the farthest, the
  distances are worked out in float64 and the greedy order is followed exactly, as long as its leader lies above every
  bound outside. So the choice is the naive one: the farthest patch, the lowest index among equals.
* Where rounding hides the order of thousands, as among the patches of flat images, which differ by the network's own
  rounding, the bounds become the distances themselves, in float64 and by differences. It is slower, and blind to nothing.

Patches on disk are read by rising rows and in blocks (`PatchRows`); what is kept of each is its length, its bound and an age.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, overload

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from offnominal.forks import native_threads
from offnominal.memory.pruning import MAX_FEATURES, PrunedCentres, register_bits
from offnominal.memory.store import PatchRows
from offnominal.types import Index, require

#: Patches whose bounds are renewed together, and those among them whose order is worked out exactly.
RENEWED = 16384
EXACT = 512
MOST_EXACT = 4096
#: Patches, for each two threads, and centres that are multiplied at once: few, so that patches and products stay in the
#: processor's cache; and how many patches at most.
ROWS, MOST_ROWS = 1024, 8192
CENTRES = 2048
#: From so many centres at once on the nearest is found by products of bytes, where the processor has them; so many patches may
#: reach too far for that.
SCREENED, FAR = 64, 16
#: Of the 32 bits of a bound, how many do not tell its bin: bins are a fifth of a percent wide.
LAST_BITS = 14
_TAKEN = -1.0
_NOTHING = -2.0


@dataclass(frozen=True)
class Coreset:
    """`indices` (M,) in the order of choice; `radius`: no patch is farther than this from its nearest centre."""

    indices: Index
    radius: float


@overload
def greedy_kcenter(patches: Tensor, n: int, *, start: int | None = None, seed: int = 0) -> Tensor: ...
@overload
def greedy_kcenter(patches: npt.NDArray[Any], n: int, *, start: int | None = None, seed: int = 0) -> Index: ...
def greedy_kcenter(patches: Any, n: int, *, start: int | None = None, seed: int = 0) -> Any:
    """Indices of `n` patches, each the farthest from those before it: exactly the naive greedy choice.

    Args:
        patches: (N, D) finite numbers; NumPy array or torch tensor.
        n: how many to choose, 1 to N.
        start: the first index; drawn from `seed` when None.

    Returns:
        (n,) int64 indices in the order of choice, all different, of the same kind as `patches`. The choice is made on the CPU.

    Raises:
        ValueError: a wrong shape, `n` or `start` outside the data, values that are not finite.
    """
    native_threads()
    tensor = torch.as_tensor(patches).detach().cpu()
    require(tensor.ndim == 2 and len(tensor) > 0, f"patches must be (N, D) with N > 0, got {tuple(tensor.shape)}")
    require(1 <= n <= len(tensor), f"n must lie in 1 to {len(tensor)}, got {n}")
    if start is None:
        start = int(np.random.default_rng(seed).integers(len(tensor)))
    require(0 <= start < len(tensor), f"start must lie in 0 to {len(tensor) - 1}, got {start}")
    if not tensor.is_floating_point() or tensor.dtype in (torch.float16, torch.bfloat16):
        tensor = tensor.float()
    chosen = kcenter(tensor, n, start).indices
    return torch.from_numpy(chosen).to(patches.device) if isinstance(patches, Tensor) else chosen


def random_coreset(count: int, n: int, seed: int) -> Index:
    """`n` different indices below `count`, in rising order."""
    return np.sort(np.random.default_rng(seed).choice(count, n, replace=False)).astype(np.int64)


def farthest_from_mean(patches: Tensor | PatchRows) -> int:
    """The row of the patch farthest from the mean of (N, D) patches, the lowest among equals: where a fit starts the choice.

    It depends on the set of patches alone. A random start moved the image AUROC of a set by up to 1.6 points.
    """
    rows = patches if isinstance(patches, PatchRows) else PatchRows(patches)
    mean = torch.zeros(rows.shape[1], dtype=torch.float64)
    for block in rows.blocks(ROWS):
        mean += block.sum(0, dtype=torch.float64)
    mean /= len(rows)
    farthest, row = -1.0, 0
    for number, block in enumerate(rows.blocks(ROWS)):
        away = by_difference(block.double(), mean)
        at = int(away.argmax())
        if away[at] > farthest:
            farthest, row = float(away[at]), number * ROWS + at
    return row


def kcenter(patches: Tensor | PatchRows, n: int, start: int, *, tick: Callable[[int], None] = lambda done: None) -> Coreset:
    """The greedy choice among (N, D) patches; `tick(done)` is called as it goes.

    Raises:
        ValueError: patches that are not finite.
    """
    rows = patches if isinstance(patches, PatchRows) else PatchRows(patches)
    return _Greedy(rows, n, start).run(tick)


class _Greedy:
    """State of one run: an upper bound of the squared distance of every patch, and how many centres it accounts for."""

    def __init__(self, patches: PatchRows, n: int, start: int) -> None:
        self.patches, self.n = patches, n
        self.at_once = min(MOST_ROWS, ROWS * max(1, torch.get_num_threads() // 2))
        self.dtype = torch.float64 if patches.dtype == torch.float64 else torch.float32
        # Distances do not change when all patches are moved; around their mean the products round least.
        # Sums are written in place: thousands of small results kept among large passing ones leave gigabytes of holes.
        self.shift = torch.zeros(patches.shape[1], dtype=torch.float64)
        for block in patches.blocks(ROWS):
            self.shift += block.sum(0, dtype=torch.float64)
        self.shift /= len(patches)
        pruned = self.dtype == torch.float32 and patches.shape[1] <= MAX_FEATURES and register_bits() > 0
        self.square, reach = torch.empty(len(patches), dtype=self.dtype), torch.empty(len(patches) if pruned else 0)
        for number, block in enumerate(patches.blocks(ROWS)):
            part, moved = slice(number * ROWS, number * ROWS + len(block)), self._moved(block)
            torch.linalg.vecdot(moved, moved, out=self.square[part])
            if pruned:
                torch.amax(moved.abs_(), 1, out=reach[part])
        require(bool(self.square.isfinite().all()), "patches must be finite")
        #: Rounding of a D-term product, relative to the lengths multiplied (random-walk growth, with a margin of 4).
        self.rounding = 4 * torch.finfo(self.dtype).eps * (patches.shape[1] + 4) ** 0.5
        self.centres = torch.empty((n, patches.shape[1]), dtype=self.dtype)
        self.lengths = torch.empty(n, dtype=self.dtype)
        self.exact_centres = torch.empty((n, patches.shape[1]), dtype=torch.float64)
        self.chosen: list[int] = []
        self.bound = torch.full((len(patches),), torch.inf, dtype=self.dtype)
        #: Whether a bound is the distance itself to the centres that its patch has seen, unless it has seen none.
        self.tight = False
        self.seen = torch.zeros(len(patches), dtype=torch.int32)
        self.pruned: PrunedCentres | None = None
        if pruned:
            self.pruned = PrunedCentres(self.centres, float(reach.topk(min(FAR + 1, len(reach))).values[-1]))
        # Room for products, which grow as they come.
        self.product = torch.empty(max(self.at_once * CENTRES, n), dtype=self.dtype)
        self._take([start], self.patches[torch.tensor([start])])
        self._renew(torch.arange(len(patches))[self.bound == torch.inf])  # in one pass, and not the largest first

    def run(self, tick: Callable[[int], None]) -> Coreset:
        exact = EXACT
        while len(self.chosen) < self.n:
            rows, outside = _about_largest(self.bound, RENEWED)
            self._renew(rows)
            fresh = self.bound[rows]
            if float(fresh.max()) < outside:
                continue  # the renewed bounds fell below the others: those are next
            places, inside = _largest(fresh, exact)
            taken = self._take_block(rows[places].sort().values, max(outside, inside))
            if taken == 0 and exact < MOST_EXACT:
                exact *= 2  # more near-ties than the block holds
            elif taken == 0 and not self.tight:
                self._tighten()
                exact = EXACT
            elif taken == 0:
                self._take_farthest()
            tick(len(self.chosen))
        return Coreset(np.array(self.chosen, dtype=np.int64), self._radius())

    def _moved(self, block: Tensor) -> Tensor:
        return block.to(self.dtype) - self.shift.to(self.dtype)

    def _take(self, indices: list[int], points: Tensor) -> None:
        """Take patches as centres; `points` are they as they were read."""
        done = len(self.chosen)
        self.exact_centres[done : done + len(indices)] = points
        moved = self._moved(points)
        self.centres[done : done + len(indices)] = moved
        if self.pruned is not None:
            self.pruned.add(done, done + len(indices))
        self.lengths[done : done + len(indices)] = moved.square().sum(1)
        self.chosen += indices
        self.bound[indices] = _TAKEN

    def _renew(self, rows: Tensor) -> None:
        """Bring the bounds of some patches (rising rows) up to date with all centres."""
        count = len(self.chosen)
        look = self._look_exactly if self.tight else self._look
        seen = self.seen[rows]
        behind = torch.nonzero(seen < count).flatten()
        behind = behind[seen[behind].argsort(stable=True)]  # those together that have seen about as many
        for first in range(0, len(behind), self.at_once):
            some = behind[first : first + self.at_once]
            part, done = rows[some].sort().values, int(seen[some[0]])
            self.bound[part] = torch.minimum(self.bound[part], look(part, done))
        self.seen[rows] = count

    def _look(self, part: Tensor, done: int) -> Tensor:
        """Squared distances of some patches to their nearest centre after the first `done`, rounding error added."""
        near = self._nearest(self._moved(self.patches[part]), self.square[part], done)
        # A centre at distance d from a patch of length r is no longer than r + d, which bounds what is rounded.
        return near.add_(self.rounding * (2 * self.square[part].sqrt() + near.sqrt()).square())

    def _look_exactly(self, part: Tensor, done: int) -> Tensor:
        """The same, exactly, in float64."""
        points = self.patches[part].double()
        if done == 0:
            return torch.from_numpy(self._to_centres(points))
        least = torch.full((len(points),), torch.inf, dtype=torch.float64)
        for centre in self.exact_centres[done : len(self.chosen)]:
            torch.minimum(least, torch.from_numpy(by_difference(points, centre)), out=least)
        return least

    def _tighten(self) -> None:
        """From now on a bound is the distance itself, which patches come to as they are renewed."""
        self.tight = True
        self.bound = self.bound.double()
        self.seen.zero_()

    def _nearest(self, points: Tensor, squares: Tensor, done: int) -> Tensor:
        """(n,) squared distances of points to their nearest centre after the first `done`, to float32's precision of what is
        multiplied; `squares` are the lengths of the points."""
        if self.pruned is None or len(self.chosen) - done < SCREENED:
            return self._by_product(points, done).add_(squares).clamp_(min=0)
        near, sure = self.pruned(points, done, len(self.chosen))
        unsure = torch.nonzero(~sure).flatten()
        if len(unsure):
            near[unsure] = self._by_product(points[unsure], done).add_(squares[unsure]).clamp_(min=0)
        if 2 * len(unsure) > len(points):
            self.pruned = None  # too many are alike
        return near

    def _by_product(self, points: Tensor, done: int) -> Tensor:
        """(n,) least of squared length less twice the product over the centres, in pieces that stay in the cache."""
        centres, lengths = self.centres[done : len(self.chosen)], self.lengths[done : len(self.chosen)]
        least = torch.full((len(points),), torch.inf, dtype=self.dtype)
        for some, long in zip(centres.split(CENTRES), lengths.split(CENTRES), strict=True):
            product = self.product[: len(points) * len(some)].view(len(points), len(some))
            torch.addmm(long[None], points, some.T, alpha=-2, out=product)
            torch.minimum(least, product.amin(1), out=least)
        return least

    def _take_block(self, block: Tensor, limit: float) -> int:
        """Follow the greedy order inside the block (rising indices) exactly, while its leader lies above `limit`."""
        raw = self.patches[block]
        points = raw.double()
        if self.tight:
            distance, between = self.bound[block].numpy(), None
        else:
            distance, moved = self._to_centres(points), points - self.shift
            distance[self.bound[block].numpy() < 0] = _TAKEN
            between = squared_distances(moved, moved)
        picks: list[int] = []
        while len(self.chosen) + len(picks) < self.n:
            place = int(distance.argmax())
            if distance[place] <= limit:
                break
            picks.append(place)
            away = by_difference(points, points[place]) if between is None else between[place]
            np.minimum(distance, away, out=distance)
            distance[place] = _TAKEN
        self._take(block[picks].tolist(), raw[picks])
        return len(picks)

    def _take_farthest(self) -> None:
        """Thousands of patches are as far, to the last digit: the first of them all."""
        free = torch.nonzero(self.bound >= 0).flatten()
        self._renew(free)
        farthest = self.bound.numpy().argmax()
        # Where nothing but copies of the centres is left, they come in their order.
        taken = torch.tensor([farthest]) if self.bound[farthest] > 0 else free[: self.n - len(self.chosen)]
        self._take(taken.tolist(), self.patches[taken])

    def _to_centres(self, points: Tensor) -> npt.NDArray[np.float64]:
        """Exact squared distances of float64 points to their nearest centres.

        Products of the working precision leave one or two centres that may be the nearest; these are worked out in float64.
        """
        parts = points.split(max(1, len(self.product) // len(self.chosen)))
        return _rounded(torch.cat([self._part_to_centres(part) for part in parts]))

    def _part_to_centres(self, points: Tensor) -> Tensor:
        count, rough = len(self.chosen), (points - self.shift).to(self.dtype)
        lengths = rough.square().sum(1)
        squared = self.product[: len(points) * count].view(len(points), count)
        torch.addmm(self.lengths[None, :count], rough, self.centres[:count].T, alpha=-2, out=squared).add_(lengths[:, None])
        least = squared.amin(1).clamp_(min=0)
        margin = 2 * self.rounding * (2 * lengths.sqrt() + least.sqrt()).square()
        near = torch.nonzero(squared <= (least + margin)[:, None])
        nearest = torch.full((len(points),), torch.inf, dtype=torch.float64)
        for row, centre in (part.unbind(1) for part in near.split(16384)):
            exact = (points[row] - self.exact_centres[centre]).square_().sum(1)
            nearest.scatter_reduce_(0, row, exact, "amin")
        return nearest

    def _radius(self) -> float:
        """Distance of the farthest patch to its nearest centre: the largest bounds are renewed until one is certain."""
        while True:
            rows, outside = _about_largest(self.bound, RENEWED)
            self._renew(rows)
            fresh = self.bound[rows]
            if float(fresh.max()) < outside:
                continue
            if self.tight:
                return float(fresh.clamp(min=0).max().sqrt())
            places, inside = _largest(fresh, EXACT)
            farthest = self._to_centres(self.patches[rows[places]].double()).max()
            if farthest >= max(outside, inside):
                return float(np.sqrt(farthest))
            self._tighten()


def _largest(values: Tensor, count: int) -> tuple[Tensor, float]:
    """Places of the `count` largest values, rising, and the largest value outside them (when there is none, below all)."""
    if count >= len(values):
        return torch.arange(len(values)), _NOTHING
    top = torch.topk(values, count + 1, sorted=False)
    least = int(top.values.argmin())
    keep = torch.arange(count + 1) != least
    return top.indices[keep].sort().values, float(top.values[least])


def _about_largest(values: Tensor, count: int) -> tuple[Tensor, float]:
    """The same of about so many, `count` at most, and a number that none outside is above: sooner, without an order.

    The bits of floats that are not negative rise with them, so the first bits put values into bins by their size.
    """
    if count < len(values) and values.dtype == torch.float32:
        bins = np.bincount(np.maximum(values.numpy().view(np.int32) >> LAST_BITS, 0), minlength=1 << (31 - LAST_BITS))
        kept = int(np.searchsorted(np.cumsum(bins[::-1]), count, side="right"))  # bins, the largest values first
        least = np.int32((len(bins) - kept) << LAST_BITS).view(np.float32)
        rows = torch.nonzero(values >= float(least)).flatten()
        if 2 * len(rows) > count:
            return rows, float(least)
    return _largest(values, count)


def squared_distances(a: Tensor, b: Tensor) -> npt.NDArray[np.float64]:
    """(n, D), (m, D) float64 -> (n, m), rounded to 2^-36 relative so that true ties stay ties."""
    lengths = a.square().sum(1)[:, None] + b.square().sum(1)[None]
    squared = torch.addmm(lengths, a, b.T, alpha=-2).clamp_(min=0)
    squared[squared < 1e-12 * lengths] = 0
    return _rounded(squared)


def by_difference(points: Tensor, centre: Tensor) -> npt.NDArray[np.float64]:
    """(n, D), (D,) float64 -> (n,) squared distances, rounded alike."""
    return _rounded((points - centre).square_().sum(1))


def _rounded(squared: Tensor) -> npt.NDArray[np.float64]:
    bits: npt.NDArray[np.int64] = squared.numpy().view(np.int64)
    return ((bits + (1 << 15)) & ~np.int64((1 << 16) - 1)).view(np.float64)
