"""Distances between patches rounded to 8 bits, with their error: which few bank patches may be among the nearest.

Processors multiply bytes at several times the rate of float32. Such products cannot decide, but they tell at a known error who
comes into question. With q', b' the patches about the mean of the bank in whole steps from -127 to 127,
|q'|^2 + |b'|^2 - 2 q'b' is a whole number and exact, and by the triangle inequality its root, |q' - b'|, differs from |q - b|
by at most |q - q'| + |b - b'|, which are known. The float32 distances of the few then decide: the neighbours are those of an
exact search.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from offnominal.types import require

#: The largest whole number of steps; products of more features than these could leave 32 bits.
STEPS, MOST_FEATURES = 127, 4096
#: Bank patches of a group, whose least distance is looked at first.
GROUP = 8
#: The number of groups is a multiple of this, what a processor looks at in one step.
WIDTH = 32
#: Groups and candidates kept of every patch: so many times K, so many, and one for so many in the bank: the more there are, the
#: more lie about as near.
MORE, SPARE, ONE_FOR = 3, 12, 768
#: The bank patches that reach farthest are compared with every patch, so that the others need no long steps.
FAR = 8
#: A product that says of what fills up the last group that it is near nothing.
NEVER = -(2**29)
#: Numbers that a processor sorts at once, without memory.
SORTED = 512
#: Rows of patches that are multiplied at once, and numbers of the product at most, so that it stays in the processor's cache.
ROWS, PRODUCT = 256, 2**22
#: (n, D) patches, (M, D) bank and (n, C) rows of it -> their (n, C) squared distances in float32.
SquaredDistances = Callable[[Tensor, Tensor, Tensor], Tensor]


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
    distances of a few, which `squared` works out."""

    def __init__(self, bank: Tensor, squared: SquaredDistances) -> None:
        require(len(bank) < 2**19, f"at most 524,287 patches, got {len(bank)}")
        require(bank.shape[1] <= MOST_FEATURES, f"at most {MOST_FEATURES} features, got {bank.shape[1]}")
        self._bank, self._squared = bank, squared
        self._mean = bank.mean(0)
        reach = (bank - self._mean).abs().amax(1)
        order = reach.argsort(descending=True, stable=True)
        far = FAR if len(bank) > GROUP * FAR else 0
        #: Rows of the bank that every patch is compared with.
        self._far, screened = order[:far].clone(), order[far:].sort().values
        longest = float(reach[screened].amax())
        self._step = max(longest / STEPS, torch.finfo(torch.float32).tiny) if longest > 0 else 1.0
        near = self._rounded(bank[screened])
        self._error = float(near.error.max())
        halves = near.square >> 1
        self._middle = (int(halves.min()) + int(halves.max())) // 2
        self._digits = -(-int((halves - self._middle).abs().max()) // STEPS**2)
        columns = torch.cat([near.steps, _digits(halves - self._middle, self._digits)], 1)
        short = -len(screened) % (GROUP * WIDTH)
        #: The others' rows, -1 for what fills up the last group; a group is every `_groups`-th.
        self._near, self._count = F.pad(screened, (0, short), value=-1), len(screened)
        self._groups = len(self._near) // GROUP
        self._columns = F.pad(columns, (0, 0, 0, short)).to(torch.int8)

    def __call__(self, patches: Tensor, k: int) -> tuple[Tensor, Tensor, Tensor]:
        """(N, D) float32 -> (N, K) squared distances, ascending, (N, K) int64 rows of the bank, and (N,) whether they are sure.

        A patch is sure when no other bank patch than those whose distances were worked out can be among its K nearest; K is at
        most M. Where more are about equally near, or values are not finite, it is not: then it is to be searched otherwise.
        """
        rows = max(8, min(ROWS, len(patches), PRODUCT // len(self._columns)))
        product = torch.empty((rows, len(self._columns)), dtype=torch.int32)
        found = [self._block(block, k, product[: len(block)]) for block in patches.split(rows)]
        squared, nearest, sure = (torch.cat(part) for part in zip(*found, strict=True))
        return squared, nearest, sure

    def _block(self, patches: Tensor, k: int, product: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        rounded = self._rounded(patches)
        self._multiply(rounded, product)
        grouped = product.view(len(patches), GROUP, self._groups)
        wanted = MORE * k + SPARE + self._count // ONE_FOR
        whole = rounded.square[:, None] + 2 * self._middle
        _, groups = _smallest(grouped.amax(1).mul_(-2).add_(whole), min(wanted, self._groups))
        inside = grouped.gather(2, groups[:, None].expand(-1, GROUP, -1)).flatten(1).mul_(-2).add_(whole)
        value, place = _smallest(inside, min(wanted, inside.shape[1]))
        places, chosen = torch.arange(inside.shape[1]), groups.shape[1]
        member, group = (places // chosen)[place], (places % chosen)[place]  # looked up: a remainder takes longer
        found = self._near[member * self._groups + groups.gather(1, group)]
        candidates = torch.cat([self._far.expand(len(patches), -1), found], 1)
        nearest = self._squared(patches, self._bank, candidates).topk(k, largest=False)
        # As many groups were looked into: one that was not has nothing below the last value either.
        sure = value[:, -1] > self._limit(nearest.values[:, -1], rounded)
        return nearest.values, candidates.gather(1, nearest.indices), sure

    def _rounded(self, patches: Tensor) -> Rounded:
        exact = (patches - self._mean).mul_(1 / self._step)
        steps = exact.round().clamp_(-STEPS, STEPS)
        square = steps.square().sum(1, dtype=torch.float64)
        lengths = torch.linalg.vector_norm(exact, dim=1)
        error = torch.linalg.vector_norm(exact.sub_(steps), dim=1)
        # What the subtraction and the scaling themselves round is a share of the length.
        return Rounded(steps, error + 4 * torch.finfo(torch.float32).eps * lengths, square.to(torch.int32))

    def _multiply(self, rounded: Rounded, product: Tensor) -> None:
        """(n, padded M) int32: q'b' less half of |b'|^2, from its middle; the more, the nearer."""
        weights = torch.tensor([[-float(STEPS)] * self._digits + [-1.0]]).expand(len(product), -1)
        torch._int_mm(torch.cat([rounded.steps, weights], 1).to(torch.int8), self._columns.T, out=product)
        product[:, self._count :] = NEVER

    def _limit(self, farthest: Tensor, rounded: Rounded) -> Tensor:
        """(n,) what of a patch as near as `farthest` (n,), a squared distance, the squared distance in steps cannot exceed."""
        lengths = farthest.sqrt() / self._step + rounded.error + self._error
        limit: Tensor = lengths.square() * (1 + 1e-5) + 2  # sums of float32; half of an odd number, rounded
        return limit


def _digits(values: Tensor, count: int) -> Tensor:
    """(n,) whole numbers up to count * 127^2 -> (n, count + 1) float32 from -127 to 127; they are their sum, all but the last
    counting 127 times."""
    rest = torch.div(values, STEPS, rounding_mode="trunc")
    last, columns = values - STEPS * rest, []
    for _ in range(count):
        columns.append(rest.clamp(-STEPS, STEPS))
        rest = rest - columns[-1]
    return torch.stack([*columns, last], 1).float()


def _smallest(values: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """(n, m) int32, m < 65,536, which it overwrites -> (n, count) the least, ascending, and their (n, count) int64 places.

    As float32 of which the lower half of the bits, up to 1 part in 128, is cut off: a bound from below. In that half stands the
    place, and such whole numbers are sorted several times faster than `topk` finds the least, so many at once at most.
    """
    places = torch.arange(values.shape[1], dtype=torch.int32)
    keys = values.clamp_(min=0).float().view(torch.int32).bitwise_and_(-(1 << 16)).bitwise_or_(places).numpy()
    while keys.shape[1] > SORTED and count < SORTED // 2:
        parts = [keys[:, first : first + SORTED] for first in range(0, keys.shape[1], SORTED)]
        for part in parts:
            part.sort(axis=1)
        keys = np.concatenate([part[:, :count] for part in parts], axis=1)
    least = torch.from_numpy(np.sort(keys, axis=1)[:, :count])
    return (least & -(1 << 16)).view(torch.float32), (least & 0xFFFF).long()
