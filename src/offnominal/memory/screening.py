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

from offnominal.memory import selection
from offnominal.types import require

#: The largest whole number of steps; products of more features than these could leave 32 bits.
STEPS, MOST_FEATURES = 127, 4096
#: The bank patches that reach farthest are compared with every patch, so that the others need no long steps; not in a bank of
#: few.
FAR, FEW = 8, 64
#: Rows of patches that are multiplied at once, and numbers of the product at most, so that it stays in the processor's cache.
ROWS, PRODUCT = 256, 2**22


@cache
def multiplies_bytes() -> bool:
    """Whether this processor has instructions for products of bytes that torch uses, and that sum them without overflow."""
    known: dict[str, bool] = getattr(torch.cpu, "get_capabilities", dict)()
    able = any(known.get(name) for name in ("avx512_vnni", "avx_vnni", "amx_int8"))
    return able and torch.backends.mkldnn.is_available() and hasattr(torch, "_int_mm")


class Rounded(NamedTuple):
    """Patches in whole steps.

    Attributes:
        steps: (n, D) float32 whole numbers from -127 to 127.
        error: (n,) length of what rounding took away, in steps.
        square: (n,) squared lengths in steps, int32.
    """

    steps: Tensor
    error: Tensor
    square: Tensor


class ScreenedBank:
    """Exact search in a float32 bank (M, D), M below 2^19 and D at most 4,096, on a CPU: products of bytes first, then the
    distances of a few."""

    def __init__(self, bank: Tensor) -> None:
        require(len(bank) < 2**19, f"at most 524,287 patches, got {len(bank)}")
        require(bank.shape[1] <= MOST_FEATURES, f"at most {MOST_FEATURES} features, got {bank.shape[1]}")
        self._bank = bank.contiguous()
        self._mean = bank.mean(0)
        reach = (bank - self._mean).abs().amax(1)
        order = reach.argsort(descending=True, stable=True)
        far = FAR if len(bank) > FEW else 0
        #: Rows of the bank that every patch is compared with, and the others', whose steps are the columns.
        self._far, self._near = order[:far].clone(), order[far:].sort().values
        longest = float(reach[self._near].amax())
        self._step = max(longest / STEPS, torch.finfo(torch.float32).tiny) if longest > 0 else 1.0
        near = self._rounded(bank[self._near])
        self._error = float(near.error.max())
        halves = near.square >> 1
        self._middle = (int(halves.min()) + int(halves.max())) // 2
        self._digits = -(-int((halves - self._middle).abs().max()) // STEPS**2)
        columns = torch.cat([near.steps, _digits(halves - self._middle, self._digits)], 1)
        self._columns = F.pad(columns, (0, 0, 0, -len(columns) % selection.COLUMNS)).to(torch.int8)

    def __call__(self, patches: Tensor, k: int) -> tuple[Tensor, Tensor, Tensor]:
        """(N, D) float32 -> (N, K) squared distances, ascending, (N, K) int64 rows of the bank, and (N,) whether they are sure.

        What is sure is exact; K is at most M. Where too many are about equally near, or values are not finite, a patch is not
        sure: then it is to be searched otherwise.
        """
        squared, nearest = torch.zeros((len(patches), k)), torch.zeros((len(patches), k), dtype=torch.int64)
        sure = torch.empty(len(patches), dtype=torch.bool)
        count = max(8, min(ROWS, len(patches), PRODUCT // len(self._columns)))
        product = torch.empty((count, len(self._columns)), dtype=torch.int32)
        of_bank = self._bank, self._near, self._far
        for block, *found in zip(*(part.split(count) for part in (patches.contiguous(), squared, nearest, sure)), strict=True):
            rounded = self._rounded(block)
            self._multiply(self._steps(rounded), product[: len(block)])
            # |q'|^2 + |b'|^2 - 2 q'b', of which the product holds the last two but for the middle of |b'|^2.
            whole = rounded.square.long() + 2 * self._middle
            slack = rounded.error.double() + self._error
            selection.nearest(product, (whole, slack, block), self._step, of_bank, found)
        return squared, nearest, sure

    def _rounded(self, patches: Tensor) -> Rounded:
        exact = (patches - self._mean).mul_(1 / self._step)
        steps = exact.round().clamp_(-STEPS, STEPS)
        square = steps.square().sum(1, dtype=torch.float64)
        lengths = torch.linalg.vector_norm(exact, dim=1)
        error = torch.linalg.vector_norm(exact.sub_(steps), dim=1)
        # What the subtraction and the scaling themselves round is a share of the length.
        return Rounded(steps, error + 4 * torch.finfo(torch.float32).eps * lengths, square.to(torch.int32))

    def _steps(self, rounded: Rounded) -> Tensor:
        """(n, D + digits) int8: steps, and what the digits of half of |b'|^2 count."""
        weights = torch.tensor([[-float(STEPS)] * self._digits + [-1.0]]).expand(len(rounded.steps), -1)
        return torch.cat([rounded.steps, weights], 1).to(torch.int8)

    def _multiply(self, steps: Tensor, product: Tensor) -> None:
        """(n, padded M) int32: q'b' less half of |b'|^2, from its middle; the more, the nearer."""
        torch._int_mm(steps, self._columns.T, out=product)
        product[:, len(self._near) :] = selection.NEVER


def _digits(values: Tensor, count: int) -> Tensor:
    """(n,) whole numbers up to count * 127^2 -> (n, count + 1) float32 from -127 to 127; they are their sum, all but the last
    counting 127 times."""
    rest = torch.div(values, STEPS, rounding_mode="trunc")
    last, columns = values - STEPS * rest, []
    for _ in range(count):
        columns.append(rest.clamp(-STEPS, STEPS))
        rest = rest - columns[-1]
    return torch.stack([*columns, last], 1).float()
