"""Which patches the memory bank keeps: random, or greedy k-center.

Greedy k-center (Gonzalez 1985; PatchCore's choice, Roth et al. 2022, section 3.2) starts at one patch and then always takes
the patch farthest from those taken. Done naively, each centre costs one pass over all patches. Here the passes are few:

* Distances only fall as centres are added, so a distance that is out of date is an upper bound. Only patches whose bound
  is among the largest are brought up to date; the others can never be the farthest and wait, often for ever.
* Bounds come from float32 matrix products with a known rounding error. Among the few that could be the farthest, the
  distances are worked out in float64 and the greedy order is followed exactly, as long as its leader lies above every
  bound outside. So the choice is the naive one: the farthest patch, the lowest index among equals.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar, overload

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from offnominal.types import Index, require

Array = TypeVar("Array", npt.NDArray[Any], Tensor)

#: Patches whose bounds are renewed together, and those among them whose order is worked out exactly.
RENEWED = 16384
EXACT = 512
MOST_EXACT = 4096
#: Rows that are moved to the mean at once: few, so that they stay in the processor's cache.
ROWS = 1024
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
        (n,) int64 indices in the order of choice, all different, of the same kind as `patches`.

    Raises:
        ValueError: a wrong shape, `n` or `start` outside the data, values that are not finite.
    """
    tensor = torch.as_tensor(patches)
    require(tensor.ndim == 2 and len(tensor) > 0, f"patches must be (N, D) with N > 0, got {tuple(tensor.shape)}")
    require(1 <= n <= len(tensor), f"n must lie in 1 to {len(tensor)}, got {n}")
    if start is None:
        start = int(np.random.default_rng(seed).integers(len(tensor)))
    require(0 <= start < len(tensor), f"start must lie in 0 to {len(tensor) - 1}, got {start}")
    if not tensor.is_floating_point() or tensor.dtype in (torch.float16, torch.bfloat16):
        tensor = tensor.float()
    chosen = kcenter(tensor, n, start).indices
    return torch.from_numpy(chosen) if isinstance(patches, Tensor) else chosen


def random_coreset(count: int, n: int, seed: int) -> Index:
    """`n` different indices below `count`, in rising order."""
    return np.sort(np.random.default_rng(seed).choice(count, n, replace=False)).astype(np.int64)


def kcenter(
    patches: Tensor,
    n: int,
    start: int,
    *,
    tick: Callable[[int], None] = lambda done: None,
) -> Coreset:
    """The greedy choice among (N, D) patches; `tick(done)` as it goes."""
    return _Greedy(patches, n, start).run(tick)


class _Greedy:
    """State of one run: an upper bound of the squared distance of every patch, and how many centres it accounts for."""

    def __init__(self, patches: Tensor, n: int, start: int) -> None:
        self.patches, self.n = patches, n
        self.dtype = torch.float64 if patches.dtype == torch.float64 else torch.float32
        # Distances do not change when all patches are moved; around their mean the products round least.
        self.shift = torch.stack([block.mean(0, dtype=torch.float64) for block in patches.split(ROWS)]).mean(0)
        self.square = torch.cat([self._moved(block).square().sum(1) for block in patches.split(ROWS)])
        require(bool(self.square.isfinite().all()), "patches must be finite")
        #: Rounding of a D-term product, relative to the lengths multiplied (random-walk growth, with a margin of 4).
        self.rounding = 4 * torch.finfo(self.dtype).eps * (patches.shape[1] + 4) ** 0.5
        self.centres = torch.empty((n, patches.shape[1]), dtype=self.dtype)
        self.exact_centres = torch.empty((n, patches.shape[1]), dtype=torch.float64)
        self.chosen: list[int] = []
        self.bound = torch.full((len(patches),), torch.inf, dtype=self.dtype)
        self.seen = torch.zeros(len(patches), dtype=torch.int32)
        self._take([start])

    def run(self, tick: Callable[[int], None]) -> Coreset:
        exact = EXACT
        while len(self.chosen) < self.n:
            rows, outside = _largest(self.bound, RENEWED)
            self._renew(rows)
            fresh = self.bound[rows]
            if float(fresh.max()) < outside:
                continue  # the renewed bounds fell below the others: those are next
            places, inside = _largest(fresh, exact)
            taken = self._take_block(rows[places].sort().values, max(outside, inside))
            if taken == 0 and exact < MOST_EXACT:
                exact *= 2  # more near-ties than the block holds
            elif taken == 0:
                self._take_farthest()
            tick(len(self.chosen))
        return Coreset(np.array(self.chosen, dtype=np.int64), self._radius())

    def _moved(self, block: Tensor) -> Tensor:
        return block.to(self.dtype) - self.shift.to(self.dtype)

    def _exactly(self, indices: Tensor | list[int]) -> Tensor:
        return self.patches[indices].double() - self.shift

    def _take(self, indices: list[int]) -> None:
        done = len(self.chosen)
        self.exact_centres[done : done + len(indices)] = self._exactly(indices)
        self.centres[done : done + len(indices)] = self._moved(self.patches[indices])
        self.chosen += indices
        self.bound[indices] = _TAKEN

    def _renew(self, rows: Tensor) -> None:
        """Bring the bounds of some patches up to date with all centres, rounding error added."""
        count = len(self.chosen)
        centres = self.centres[:count]
        lengths = centres.square().sum(1)
        seen = self.seen[rows]
        for done in torch.unique(seen).tolist():
            if done == count:
                continue
            for part in rows[seen == done].split(4096):
                points = self._moved(self.patches[part])
                near = torch.addmm(lengths[None, done:], points, centres[done:].T, alpha=-2).amin(1)
                near = near.add_(self.square[part]).clamp_(min=0)
                # A centre at distance d from a patch of length r is no longer than r + d, which bounds what is rounded.
                near += self.rounding * (2 * self.square[part].sqrt() + near.sqrt()).square()
                self.bound[part] = torch.minimum(self.bound[part], near)
        self.seen[rows] = count

    def _take_block(self, block: Tensor, limit: float) -> int:
        """Follow the greedy order inside the block (rising indices) exactly, while its leader lies above `limit`."""
        points = self._exactly(block)
        distance = self._to_centres(points)
        distance[self.bound[block].numpy() < 0] = _TAKEN
        between = squared_distances(points, points)
        picks: list[int] = []
        while len(self.chosen) + len(picks) < self.n:
            place = int(distance.argmax())
            if distance[place] <= limit:
                break
            picks.append(place)
            np.minimum(distance, between[place], out=distance)
            distance[place] = _TAKEN
        self._take([int(block[place]) for place in picks])
        return len(picks)

    def _take_farthest(self) -> None:
        """Thousands of patches tie for the farthest: decide exactly among all that may be it."""
        free = torch.nonzero(self.bound >= 0).flatten()
        self._renew(free)
        order = free[self.bound[free].argsort(descending=True, stable=True)]
        best, at = -1.0, -1
        for part in order.split(8192):
            if float(self.bound[part[0]]) < best:
                break
            distance = self._to_centres(self._exactly(part))
            top = float(distance.max())
            first = int(part[torch.from_numpy(distance == top)].min())
            if top > best or (top == best and first < at):
                best, at = top, first
        if best == 0:  # nothing but copies of the centres is left
            self._take(free[: self.n - len(self.chosen)].tolist())
        else:
            self._take([at])

    def _to_centres(self, points: Tensor) -> npt.NDArray[np.float64]:
        """Exact squared distances of float64 points to their nearest centres.

        Products of the working precision leave one or two centres that may be the nearest; these are worked out in float64.
        """
        count = len(self.chosen)
        centres, rough = self.centres[:count], points.to(self.dtype)
        lengths = rough.square().sum(1)
        squared = torch.addmm(centres.square().sum(1)[None], rough, centres.T, alpha=-2).add_(lengths[:, None])
        least = squared.amin(1).clamp_(min=0)
        margin = 2 * self.rounding * (2 * lengths.sqrt() + least.sqrt()).square()
        near = torch.nonzero(squared <= (least + margin)[:, None])
        nearest = torch.full((len(points),), torch.inf, dtype=torch.float64)
        for row, centre in (part.unbind(1) for part in near.split(65536)):
            exact = (points[row] - self.exact_centres[centre]).square_().sum(1)
            nearest.scatter_reduce_(0, row, exact, "amin")
        return _rounded(nearest)

    def _radius(self) -> float:
        """Distance of the farthest patch to its nearest centre: the largest bounds are renewed until one is certain."""
        while True:
            rows, outside = _largest(self.bound, RENEWED)
            self._renew(rows)
            if float(self.bound[rows].max()) >= outside:
                top = rows[int(self.bound[rows].argmax())][None]
                farthest = self._to_centres(self._exactly(top))
                return float(np.sqrt(farthest[0]))


def _largest(values: Tensor, count: int) -> tuple[Tensor, float]:
    """Places of the `count` largest values, and the largest value outside them (below every value when there is none)."""
    if count >= len(values):
        return torch.arange(len(values)), _NOTHING
    top = torch.topk(values, count + 1, sorted=False)
    least = int(top.values.argmin())
    keep = torch.arange(count + 1) != least
    return top.indices[keep], float(top.values[least])


def squared_distances(a: Tensor, b: Tensor) -> npt.NDArray[np.float64]:
    """(n, D), (m, D) float64 -> (n, m), rounded to 2^-36 relative so that true ties stay ties."""
    lengths = a.square().sum(1)[:, None] + b.square().sum(1)[None]
    squared = torch.addmm(lengths, a, b.T, alpha=-2).clamp_(min=0)
    squared[squared < 1e-12 * lengths] = 0
    return _rounded(squared)


def _rounded(squared: Tensor) -> npt.NDArray[np.float64]:
    bits: npt.NDArray[np.int64] = squared.numpy().view(np.int64)
    return ((bits + (1 << 15)) & ~np.int64((1 << 16) - 1)).view(np.float64)
