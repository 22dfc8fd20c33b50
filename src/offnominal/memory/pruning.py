"""Distances between patches rounded to 8 bits, with their error: which few bank patches may be among the nearest.

Processors multiply bytes at several times the rate of float32. Such products cannot decide, but they tell at a known error who
comes into question. With q', b' the patches about the mean of the bank in whole steps from -127 to 127,
|q'|^2 + |b'|^2 - 2 q'b' is a whole number and exact, and by the triangle inequality its root, |q' - b'|, differs from |q - b|
by at most |q - q'| + |b - b'|, which are known. The float32 distances of the few then decide: the neighbours are those of an
exact search.
"""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from offnominal.memory.compiled import address, compiled, threads
from offnominal.types import require

#: The largest whole number of steps; products of more features than these could leave 32 bits.
STEPS, MAX_FEATURES = 127, 4096
#: The bank patches that reach farthest are compared with every patch, so that the others need no long steps; not in a bank of
#: few.
FAR, FEW = 8, 64
#: Columns that are multiplied together, bytes of a column that are, and the product of what fills up the last columns: near
#: nothing.
PANEL, BYTES, NEVER = 64, 4, -(2**29)
#: Neighbours, at most: as many as are compared in float32.
MAX_NEIGHBOURS = 512
#: Bits of registers in which processors multiply bytes, the fastest first.
REGISTERS = (512, 256)


@cache
def register_bits() -> int:
    """Bits of the registers in which this processor multiplies bytes; 0 where it does not, or that was not compiled."""
    if not compiled():
        return 0
    from offnominal.memory import _screening

    return next((bits for bits in REGISTERS if _screening.multiplies(bits)), 0)


class PrunedBank:
    """Exact search in a float32 bank (M, D), M below 2^19 and D at most 4,096, on a CPU: products of bytes first, then the
    distances of a few.

    `bits` are those of the registers that bytes are multiplied in, `register_bits()` unless given; 0 multiplies them one by one, on
    every processor and slowly.
    """

    def __init__(self, bank: Tensor, bits: int | None = None) -> None:
        require(len(bank) < 2**19, f"at most 524,287 patches, got {len(bank)}")
        require(bank.shape[1] <= MAX_FEATURES, f"at most {MAX_FEATURES} features, got {bank.shape[1]}")
        self._bits = register_bits() if bits is None else bits
        self._bank = bank.contiguous()
        self._mean = bank.mean(0)
        reach = (bank - self._mean).abs().amax(1)
        order = reach.argsort(descending=True, stable=True)
        far = FAR if len(bank) > FEW else 0
        #: Rows of the bank that every patch is compared with, and the others', whose steps are the columns.
        self._far, self._near = order[:far].clone(), order[far:].sort().values
        self._columns = Columns.empty(len(self._near), bank.shape[1])
        self._step = _step(float(reach[self._near].amax()))
        self._error = self._columns.add(0, (bank[self._near] - self._mean) / self._step, self._near)

    def __call__(self, patches: Tensor, k: int) -> tuple[Tensor, Tensor, Tensor]:
        """(N, D) float32 -> (N, K) squared distances, ascending, (N, K) int64 rows of the bank, and (N,) whether they are sure.

        What is sure is exact; K is at most M and 512. Where too many are about equally near, or values are not finite, a patch
        is not sure, and what is found for it means nothing: then it is to be searched otherwise. Works on as many threads as
        torch has.
        """
        require(0 < k <= min(MAX_NEIGHBOURS, len(self._bank)), f"{k} neighbours")
        of_bank = self._bank, self._mean, self._far
        return _nearest(patches, of_bank, self._columns, (self._step, self._error), k, self._bits)


class PrunedCentres:
    """The same of centres that are added by and by, for patches about their mean: the nearest alone.

    Args:
        centres: (n, D) float32 with room for all, of which those are read that were added.
        reach: the largest value of patches; a centre that reaches farther is compared with every patch.
        bits: as for `PrunedBank`.
    """

    def __init__(self, centres: Tensor, reach: float, bits: int | None = None) -> None:
        self._bits = register_bits() if bits is None else bits
        self._centres, self._mean, self._reach = centres, torch.zeros(centres.shape[1]), reach
        self._step, self._error = _step(reach), 0.0
        self._far = torch.empty(0, dtype=torch.int64)
        self._columns = Columns.empty(*centres.shape)

    def add(self, first: int, last: int) -> None:
        """From now on the centres from `first` to `last` count, which stand behind those added before."""
        if first == last:
            return
        rows = torch.arange(first, last)
        far = self._centres[first:last].abs().amax(1) > self._reach
        self._far = torch.cat([self._far, rows[far]])
        steps = (self._centres[first:last] / self._step).masked_fill_(far[:, None], 0)
        self._error = max(self._error, self._columns.add(first, steps, rows))
        self._columns.start[rows[far]] = NEVER

    def __call__(self, patches: Tensor, first: int, last: int) -> tuple[Tensor, Tensor]:
        """(N, D) float32 -> (N,) squared distances to the nearest centre from `first` to `last`, and whether they are sure.

        Those just before `first` may count as well, and so may all that reach far.
        """
        columns = self._columns.part(first, last)
        squared, _, sure = _nearest(
            patches, (self._centres, self._mean, self._far), columns, (self._step, self._error), 1, self._bits
        )
        return squared[:, 0], sure


class Columns(NamedTuple):
    """A bank in whole steps, as it is multiplied; what no patch belongs to is near nothing.

    Attributes:
        panels: (panels, ceil(D / 4), 64, 4) int8: four features of 64 columns after each other.
        start: (64 panels,) int32 that products with steps of 128 more are added to. Then they are q'b' less half of |b'|^2,
            rounded down: the more, the nearer.
        rows: (64 panels,) int64, of the bank.
    """

    panels: Tensor
    start: Tensor
    rows: Tensor

    @classmethod
    def empty(cls, count: int, features: int) -> Columns:
        panels, quads = -(-count // PANEL), -(-features // BYTES)
        of_panels = torch.zeros((panels, quads, PANEL, BYTES), dtype=torch.int8)
        start = torch.full((PANEL * panels,), NEVER, dtype=torch.int32)
        return cls(of_panels, start, torch.zeros(PANEL * panels, dtype=torch.int64))

    def part(self, first: int, last: int) -> Columns:
        """Whole panels, in which all columns from `first` to `last` are."""
        panels = slice(first // PANEL, -(-last // PANEL))
        of_panels = slice(PANEL * panels.start, PANEL * panels.stop)
        return Columns(self.panels[panels], self.start[of_panels], self.rows[of_panels])

    def add(self, first: int, exact: Tensor, rows: Tensor) -> float:
        """Fill columns from `first` on with (n, D) patches in steps, not yet whole, of (n,) rows of the bank.

        Returns how long at most what is lost of a patch is, in steps.
        """
        steps = exact.round().clamp_(-STEPS, STEPS)
        at = torch.arange(first, first + len(steps))
        self.panels[at // PANEL, :, at % PANEL] = (
            F.pad(steps, (0, -steps.shape[1] % BYTES)).to(torch.int8).view(len(steps), -1, BYTES)
        )
        halves = steps.square().sum(1, dtype=torch.float64).long() >> 1
        self.start[at] = (-halves - (STEPS + 1) * steps.sum(1, dtype=torch.float64).long()).to(torch.int32)
        self.rows[at] = rows
        # What the subtraction and the scaling themselves round is a share of the length.
        lost = torch.linalg.vector_norm(exact - steps, dim=1, dtype=torch.float64)
        return float((lost + 4 * torch.finfo(torch.float32).eps * torch.linalg.vector_norm(exact, dim=1)).max())


def _step(reach: float) -> float:
    """So long that `STEPS` of them reach as far."""
    return max(reach / STEPS, torch.finfo(torch.float32).tiny) if reach > 0 else 1.0


def _nearest(
    patches: Tensor,
    of_bank: tuple[Tensor, Tensor, Tensor],
    columns: Columns,
    lengths: tuple[float, float],
    k: int,
    bits: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """`of_bank`: (M, D) patches, their (D,) mean, and rows that every patch is compared with. `lengths`: of a step, and of what
    was lost of a patch of the bank."""
    from offnominal.memory import _screening

    patches, (bank, mean, far), (panels, start, rows) = patches.contiguous(), of_bank, columns
    count, features = len(patches), bank.shape[1]
    squared, found = torch.zeros((count, k)), torch.zeros((count, k), dtype=torch.int64)
    sure = torch.empty(count, dtype=torch.bool)
    of_panels = len(panels), -(-features // BYTES), PANEL, BYTES
    addresses = [address(patches, torch.float32, (count, features)), address(bank, torch.float32, (len(bank), features))]
    addresses += [address(mean, torch.float32, (features,)), address(panels, torch.int8, of_panels)]
    addresses += [address(start, torch.int32, (PANEL * len(panels),)), address(rows, torch.int64, (PANEL * len(panels),))]
    addresses += [address(far, torch.int64, (len(far),)), address(squared, torch.float32, (count, k))]
    addresses += [address(found, torch.int64, (count, k)), address(sure, torch.bool, (count,))]
    sizes = (count, len(start), features, BYTES * of_panels[1], len(far), k)
    _screening.nearest(tuple(addresses), lengths, sizes, bits, threads(count))
    return squared, found, sure
