"""Squared distances in bfloat16, with their error: which few bank patches may be among the nearest.

Where a processor multiplies in bfloat16, it does so at several times the rate of float32, and writes half the bytes. Such
products cannot decide, but they tell at a known error who comes into question. With q', b' the patches rounded to bfloat16,
one product of longer rows gives |q'|^2 + |b'|^2 - 2 q'b' = |q' - b'|^2, and by the triangle inequality |q' - b'| differs from
|q - b| by at most |q - q'| + |b - b'|, which are known. What the product itself rounds is a share of its result (8 bits are
kept of it) and of the lengths (sums in float32). The distances of the few then decide: the neighbours are those of an exact
search.
"""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from offnominal.types import require

#: Bank patches of a group, whose least distance is looked at first.
GROUP = 16
#: The number of groups is a multiple of this, the bfloat16 that a processor looks at in one step.
WIDTH = 32
#: A result in bfloat16 is off by at most 2^-9 of it; twice that, so that a product which rounds once more in between holds too.
RESULT = 2.0**-8
#: Groups and candidates kept of every patch beyond K: so many, and half of K.
SPARE = 6
#: Differences that are worked out at once.
IN_CACHE = 500_000
#: Rows of patches that are multiplied at once, so that the product stays in the processor's cache.
ROWS = 512


@cache
def multiplies_bfloat16() -> bool:
    """Whether this processor has instructions for products of bfloat16 that torch uses."""
    known: dict[str, bool] = getattr(torch.cpu, "get_capabilities", dict)()
    return torch.backends.mkldnn.is_available() and bool(known.get("avx512_bf16") or known.get("amx_bf16"))


class Rounded(NamedTuple):
    """Patches in bfloat16 as one side of a product: that of rows with columns are the squared distances of rounded patches.

    Attributes:
        factor: (n, D + 6) bfloat16.
        error: (n,) length of what rounding took away.
        square: (n,) squared lengths of the rounded patches.
    """

    factor: Tensor
    error: Tensor
    square: Tensor


def as_rows(patches: Tensor) -> Rounded:
    """(n, D) float32: the patches, their squared lengths, and ones for those of the columns."""
    rounded, error, square, lengths = _rounded(patches)
    return Rounded(torch.cat([rounded, lengths, torch.ones_like(lengths)], 1), error, square)


def as_columns(patches: Tensor) -> Rounded:
    """(n, D) float32: -2 times the patches, ones for the squared lengths of the rows, and their own."""
    rounded, error, square, lengths = _rounded(patches)
    return Rounded(torch.cat([-2 * rounded, torch.ones_like(lengths), lengths], 1), error, square)


def _rounded(patches: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """In bfloat16; length of what that took away; squared length of what is left, and the same as a sum of three bfloat16."""
    rounded = patches.bfloat16()
    square = rounded.float().square().sum(1)
    parts, rest = [], square
    for _ in range(3):  # three times 8 bits hold a float32
        parts.append(rest.bfloat16())
        rest = rest - parts[-1].float()
    return rounded, torch.linalg.vector_norm(patches - rounded.float(), dim=1), square, torch.stack(parts, 1)


class ScreenedBank:
    """Exact search in a float32 bank (M, D), M below 2^20, on a CPU: bfloat16 products first, then the distances of a few."""

    def __init__(self, bank: Tensor) -> None:
        require(len(bank) < 2**20, f"at most 1,048,575 patches, got {len(bank)}")
        self._bank = bank
        columns = as_columns(bank)
        short = -len(bank) % (GROUP * WIDTH)
        #: A group is every `_groups`-th patch; what is missing is filled up with what is far from everything.
        self._groups = (len(bank) + short) // GROUP
        far = torch.zeros(short, columns.factor.shape[1], dtype=torch.bfloat16)
        far[:, -3] = torch.finfo(torch.bfloat16).max
        self._columns = torch.cat([columns.factor, far])
        self._error, self._square = float(columns.error.max()), float(columns.square.max())

    def __call__(self, patches: Tensor, k: int) -> tuple[Tensor, Tensor, Tensor]:
        """(N, D) float32 -> (N, K) squared distances, ascending, (N, K) int64 rows of the bank, and (N,) whether they are sure.

        A patch is sure when no other bank patch than those whose distances were worked out can be among its K nearest; K is at
        most M. Where more are about equally near, or values are not finite, it is not: then it is to be searched otherwise.
        """
        product = torch.empty((min(ROWS, len(patches)), len(self._columns)), dtype=torch.bfloat16)
        found = [self._block(block, k, product[: len(block)]) for block in patches.split(ROWS)]
        squared, rows, sure = (torch.cat(part) for part in zip(*found, strict=True))
        return squared, rows, sure

    def _block(self, patches: Tensor, k: int, product: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        rows, wanted = as_rows(patches), k + k // 2 + SPARE
        torch.mm(rows.factor, self._columns.T, out=product)
        grouped = product.view(torch.int16).view(len(patches), GROUP, self._groups)
        _, groups = _smallest(grouped.amin(1), min(wanted, self._groups))
        chosen = groups.shape[1]
        inside = grouped.gather(2, groups[:, None].expand(-1, GROUP, -1)).flatten(1)
        value, place = _smallest(inside, min(wanted, inside.shape[1]))
        places = torch.arange(inside.shape[1])
        member, group = (places // chosen)[place], (places % chosen)[place]  # looked up: a remainder takes longer
        candidates = member * self._groups + groups.gather(1, group)
        squared = torch.full(candidates.shape, torch.inf)
        squared[:, :k] = squared_differences(patches[:, None], self._bank, candidates[:, :k])
        limit = self._limit(squared[:, :k].amax(1), rows)
        row, more = (value[:, k:] <= limit[:, None]).nonzero(as_tuple=True)
        squared[row, k + more] = squared_differences(patches[row], self._bank, candidates[row, k + more])
        nearest = squared.topk(k, largest=False)
        limit = self._limit(nearest.values[:, -1], rows)
        # As many groups were looked into: one that was not has nothing below the last value either.
        return nearest.values, candidates.gather(1, nearest.indices), value[:, -1] > limit

    def _limit(self, farthest: Tensor, rows: Rounded) -> Tensor:
        """(n,) what the product of a patch as near as `farthest` (n,), a squared distance, cannot exceed."""
        lengths = rows.square.sqrt() + self._square**0.5
        summed = self._columns.shape[1] * torch.finfo(torch.float32).eps * lengths.square()
        rounded = (farthest + summed).sqrt() + rows.error + self._error
        limit: Tensor = (rounded.square() + summed) * (1 + RESULT)
        return limit


def squared_differences(points: Tensor, bank: Tensor, rows: Tensor) -> Tensor:
    """(n, 1, D) points and (n, C) rows of a bank (M, D), or both without the middle -> their squared distances, float32.

    Worked out by differences, a cacheful at a time. A row outside the bank counts as the nearest one inside.
    """
    squared, inside = torch.empty(rows.shape), rows.clamp(0, len(bank) - 1)
    step = max(1, IN_CACHE // max(1, rows[:1].numel() * bank.shape[1]))
    for some, at, out in zip(points.split(step), inside.split(step), squared.split(step), strict=True):
        torch.sum(F.embedding(at, bank).sub_(some).square_(), -1, out=out)
    return squared


def _smallest(values: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """(n, m) bits of bfloat16, m < 65,536 -> (n, count) the least as float32, ascending, and their (n, count) int64 places.

    Where it is not negative, a bfloat16 has the order of its bits; those below 0, which rounding makes of near 0, come before,
    in any order. With its place below them they make one whole number, and those are parted several times faster than `topk`
    sorts.
    """
    places = torch.arange(values.shape[1], dtype=torch.int32)
    keys = torch.add(places, values.to(torch.int32), alpha=1 << 16).numpy()
    keys.partition(count - 1, axis=1)
    least = torch.from_numpy(np.sort(keys[:, :count], axis=1))
    return (least >> 16).to(torch.int16).view(torch.bfloat16).float(), (least & 0xFFFF).long()
