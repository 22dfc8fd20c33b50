"""Distances between patches rounded to 8 bits, with their error: which few bank patches may be among the nearest.

Processors multiply bytes at several times the rate of float32. Such products cannot decide, but they tell at a known error who
comes into question. With q', b' the patches about the mean of the bank in whole steps from -127 to 127,
|q'|^2 + |b'|^2 - 2 q'b' is a whole number and exact, and by the triangle inequality its root, |q' - b'|, differs from |q - b|
by at most |q - q'| + |b - b'|, which are known. The float32 distances of the few then decide: the neighbours are those of an
exact search.
"""

from __future__ import annotations

from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor

from offnominal.memory.compiled import address, compiled, threads
from offnominal.types import require

#: The largest whole number of steps; products of more features than these could leave 32 bits.
STEPS, MOST_FEATURES = 127, 4096
#: The bank patches that reach farthest are compared with every patch, so that the others need no long steps; not in a bank of
#: few.
FAR, FEW = 8, 64
#: Columns that are multiplied together, bytes of a column that are, and the product of what fills up the last columns: near
#: nothing.
PANEL, BYTES, NEVER = 64, 4, -(2**29)
#: Neighbours, at most.
MOST_NEIGHBOURS = 512
#: Bits of registers in which processors multiply bytes, the fastest first.
REGISTERS = (512, 256)


@cache
def registers() -> int:
    """Bits of the registers in which this processor multiplies bytes; 0 where it does not, or that was not compiled."""
    if not compiled():
        return 0
    from offnominal.memory import _screening

    return next((bits for bits in REGISTERS if _screening.multiplies(bits)), 0)


class ScreenedBank:
    """Exact search in a float32 bank (M, D), M below 2^19 and D at most 4,096, on a CPU: products of bytes first, then the
    distances of a few.

    `bits` are those of the registers that bytes are multiplied in, `registers()` unless given; 0 multiplies them one by one, on
    every processor and slowly.
    """

    def __init__(self, bank: Tensor, bits: int | None = None) -> None:
        require(len(bank) < 2**19, f"at most 524,287 patches, got {len(bank)}")
        require(bank.shape[1] <= MOST_FEATURES, f"at most {MOST_FEATURES} features, got {bank.shape[1]}")
        self._bits = registers() if bits is None else bits
        self._bank = bank.contiguous()
        self._mean = bank.mean(0)
        reach = (bank - self._mean).abs().amax(1)
        order = reach.argsort(descending=True, stable=True)
        far = FAR if len(bank) > FEW else 0
        #: Rows of the bank that every patch is compared with, and the others', whose steps are the columns.
        self._far, self._near = order[:far].clone(), order[far:].sort().values
        longest = float(reach[self._near].amax())
        self._step = max(longest / STEPS, torch.finfo(torch.float32).tiny) if longest > 0 else 1.0
        exact = (bank[self._near] - self._mean).mul_(1 / self._step)
        steps = exact.round().clamp_(-STEPS, STEPS)
        # What the subtraction and the scaling themselves round is a share of the length.
        lost = torch.linalg.vector_norm(exact - steps, dim=1, dtype=torch.float64)
        self._error = float((lost + 4 * torch.finfo(torch.float32).eps * torch.linalg.vector_norm(exact, dim=1)).max())
        self._panels, self._start = _panels(steps), _start(steps)
        self._of_column = F.pad(self._near, (0, -len(steps) % PANEL))

    def __call__(self, patches: Tensor, k: int) -> tuple[Tensor, Tensor, Tensor]:
        """(N, D) float32 -> (N, K) squared distances, ascending, (N, K) int64 rows of the bank, and (N,) whether they are sure.

        What is sure is exact; K is at most M and 512. Where too many are about equally near, or values are not finite, a patch
        is not sure, and what is found for it means nothing: then it is to be searched otherwise. Works on as many threads as
        torch has.
        """
        from offnominal.memory import _screening

        require(0 < k <= min(MOST_NEIGHBOURS, len(self._bank)), f"{k} neighbours")
        patches, (size, features) = patches.contiguous(), self._bank.shape
        squared, rows = torch.zeros((len(patches), k)), torch.zeros((len(patches), k), dtype=torch.int64)
        sure = torch.empty(len(patches), dtype=torch.bool)
        panels, quads, _, _ = self._panels.shape
        addresses = [address(patches, torch.float32, (len(patches), features))]
        addresses += [address(self._bank, torch.float32, (size, features)), address(self._mean, torch.float32, (features,))]
        addresses += [part.data_ptr() for part in (self._panels, self._start, self._of_column, self._far, squared, rows, sure)]
        sizes = (len(patches), PANEL * panels, features, BYTES * quads, len(self._far), k)
        _screening.nearest(tuple(addresses), (self._step, self._error), sizes, self._bits, threads(len(patches)))
        return squared, rows, sure


def _panels(steps: Tensor) -> Tensor:
    """(n, D) whole steps -> (panels, ceil(D / 4), 64, 4) int8: four features of 64 columns after each other."""
    count, features = steps.shape
    filled = F.pad(steps, (0, -features % BYTES, 0, -count % PANEL)).to(torch.int8)
    return filled.view(-1, PANEL, filled.shape[1] // BYTES, BYTES).transpose(1, 2).contiguous()


def _start(steps: Tensor) -> Tensor:
    """(n, D) whole steps -> (64 panels,) int32 that products with steps of 128 more are added to.

    Then they are q'b' less half of |b'|^2, rounded down: the more, the nearer.
    """
    halves = steps.square().sum(1, dtype=torch.float64).long() >> 1
    start = -halves - (STEPS + 1) * steps.sum(1, dtype=torch.float64).long()
    return F.pad(start, (0, -len(steps) % PANEL), value=NEVER).to(torch.int32)
