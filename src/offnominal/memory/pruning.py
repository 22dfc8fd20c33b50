"""Candidate pruning: int8 dot products find the few bank patches that may be among the nearest.

Int8 dot products are several times faster than float32 products. They are too coarse to rank patches, but their error is known.
Let q' and b' be a patch and a bank patch, centred on the bank's mean and quantised to integers from -127 to 127. Then
|q' - b'|^2 = |q'|^2 + |b'|^2 - 2 q'b' is an exact integer, and by the triangle inequality |q' - b'| differs from |q - b| by at
most |q - q'| + |b - b'|, which are known. Float32 distances then rank the remaining candidates, so the search is exact.
"""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from offnominal.memory.compiled import address, compiled, threads
from offnominal.types import require

#: Largest quantised value, and the largest number of features whose products fit in 32 bits.
LEVELS, MAX_FEATURES = 127, 4096
#: In a bank of more than `SMALL_BANK` patches, the `OUTLIERS` patches with the largest values are compared with every patch, so
#: that the others have a finer quantisation.
OUTLIERS, SMALL_BANK = 8, 64
#: Columns that are multiplied together, bytes of one column in a vector lane, and the product of padding columns, which is
#: lower than that of any patch.
PANEL, BYTES, PADDING_PRODUCT = 64, 4, -(2**29)
#: Largest number of neighbours; equal to the number of candidates that the C code compares in float32.
MAX_NEIGHBOURS = 512
#: Bank sizes from this on do not fit the integer arithmetic.
BANK_LIMIT = 2**19
#: Widths in bits of the registers for int8 dot products, fastest first.
REGISTERS = (512, 256)


@cache
def register_bits() -> int:
    """Width of the registers in which this processor computes int8 dot products; 0 without them or without the C extension."""
    if not compiled():
        return 0
    from offnominal.memory import _screening

    return next((bits for bits in REGISTERS if _screening.multiplies(bits)), 0)


class PrunedBank:
    """Exact search in a float32 bank on a CPU, by candidate pruning.

    Parameters
    ----------
    bank
        (M, D) float32, M < 2^19, D <= 4096.
    bits
        Width of the registers for int8 dot products; `register_bits()` by default. 0 selects slow scalar code that runs on
        every processor.
    """

    def __init__(self, bank: Tensor, bits: int | None = None) -> None:
        require(len(bank) < BANK_LIMIT, f"at most {BANK_LIMIT - 1:,} patches, got {len(bank)}")
        require(bank.shape[1] <= MAX_FEATURES, f"at most {MAX_FEATURES} features, got {bank.shape[1]}")
        self._bits = register_bits() if bits is None else bits
        self._bank = bank.contiguous()
        self._mean = bank.mean(0)
        reach = (bank - self._mean).abs().amax(1)
        order = reach.argsort(descending=True, stable=True)
        outliers = OUTLIERS if len(bank) > SMALL_BANK else 0
        self._outliers, self._inliers = order[:outliers].clone(), order[outliers:].sort().values
        self._packed = PackedBank.empty(len(self._inliers), bank.shape[1])
        self._scale = _scale(float(reach[self._inliers].amax()))
        self._error = self._packed.add(0, (bank[self._inliers] - self._mean) / self._scale, self._inliers)

    def __call__(self, patches: Tensor, k: int) -> tuple[Tensor, Tensor, Tensor]:
        """Search the K nearest bank patches, on as many threads as torch uses.

        Parameters
        ----------
        patches
            (N, D) float32.
        k
            Number of neighbours, at most M and 512.

        Returns
        -------
        squared, rows, exact
            (N, K) squared distances, ascending; (N, K) int64 rows of the bank; (N,) bool. A patch is not exact if it has too
            many candidates or a value that is not finite. Its result is meaningless, and it must be searched in another way.
        """
        require(0 < k <= min(MAX_NEIGHBOURS, len(self._bank)), f"{k} neighbours: give 1 to the size of the bank")
        bank = self._bank, self._mean, self._outliers
        return _nearest(patches, bank, self._packed, (self._scale, self._error), k, self._bits)


class PrunedCentres:
    """Exact search for the nearest of a growing set of centres, for patches centred on their mean.

    Parameters
    ----------
    centres
        (n, D) float32 with room for all centres; only those that were added are read.
    reach
        Largest absolute value of the patches. Centres with a larger value are compared with every patch.
    bits
        As for `PrunedBank`.
    """

    def __init__(self, centres: Tensor, reach: float, bits: int | None = None) -> None:
        self._bits = register_bits() if bits is None else bits
        self._centres, self._mean, self._reach = centres, torch.zeros(centres.shape[1]), reach
        self._scale, self._error = _scale(reach), 0.0
        self._outliers = torch.empty(0, dtype=torch.int64)
        self._packed = PackedBank.empty(*centres.shape)

    def add(self, first: int, last: int) -> None:
        """Add the centres from `first` to `last`, which follow those added before."""
        if first == last:
            return
        rows = torch.arange(first, last)
        far = self._centres[first:last].abs().amax(1) > self._reach
        self._outliers = torch.cat([self._outliers, rows[far]])
        values = (self._centres[first:last] / self._scale).masked_fill_(far[:, None], 0)
        self._error = max(self._error, self._packed.add(first, values, rows))
        self._packed.start[rows[far]] = PADDING_PRODUCT

    def __call__(self, patches: Tensor, first: int, last: int) -> tuple[Tensor, Tensor]:
        """Search the nearest centre from `first` to `last`; outliers and a few centres before `first` may count as well.

        Returns
        -------
        squared, exact
            (N,) squared distances of the (N, D) float32 patches; (N,) bool, see `PrunedBank`.
        """
        packed = self._packed.part(first, last)
        bank = self._centres, self._mean, self._outliers
        squared, _, exact = _nearest(patches, bank, packed, (self._scale, self._error), 1, self._bits)
        return squared[:, 0], exact


class PackedBank(NamedTuple):
    """A quantised bank in the layout of the int8 kernels. Columns without a patch have the lowest product.

    Attributes
    ----------
    panels
        (panels, ceil(D / 4), 64, 4) int8: four features of each of 64 columns in turn.
    start
        (64 panels,) int32 initial values of the products, which compensate for the 128 that the kernels add to each quantised
        value of a patch. The results are q'b' - |b'|^2 / 2, rounded down: the higher, the nearer.
    rows
        (64 panels,) int64 rows of the bank.
    """

    panels: Tensor
    start: Tensor
    rows: Tensor

    @classmethod
    def empty(cls, count: int, features: int) -> PackedBank:
        """Room for `count` patches."""
        panels, quads = -(-count // PANEL), -(-features // BYTES)
        values = torch.zeros((panels, quads, PANEL, BYTES), dtype=torch.int8)
        start = torch.full((PANEL * panels,), PADDING_PRODUCT, dtype=torch.int32)
        return cls(values, start, torch.zeros(PANEL * panels, dtype=torch.int64))

    def part(self, first: int, last: int) -> PackedBank:
        """The panels that hold the columns from `first` to `last`."""
        panels = slice(first // PANEL, -(-last // PANEL))
        columns = slice(PANEL * panels.start, PANEL * panels.stop)
        return PackedBank(self.panels[panels], self.start[columns], self.rows[columns])

    def add(self, first: int, values: Tensor, rows: Tensor) -> float:
        """Quantise (n, D) scaled patches into the columns from `first` on; `rows` (n,) are their rows of the bank.

        Returns the largest length of a patch's rounding error, in quantisation steps.
        """
        levels = values.round().clamp_(-LEVELS, LEVELS)
        columns = torch.arange(first, first + len(levels))
        self.panels[columns // PANEL, :, columns % PANEL] = (
            F.pad(levels, (0, -levels.shape[1] % BYTES)).to(torch.int8).view(len(levels), -1, BYTES)
        )
        half_squares = levels.square().sum(1, dtype=torch.float64).long() >> 1
        self.start[columns] = (-half_squares - (LEVELS + 1) * levels.sum(1, dtype=torch.float64).long()).to(torch.int32)
        self.rows[columns] = rows
        # The subtraction and the scaling round in proportion to the length.
        lost = torch.linalg.vector_norm(values - levels, dim=1, dtype=torch.float64)
        return float((lost + 4 * torch.finfo(torch.float32).eps * torch.linalg.vector_norm(values, dim=1)).max())


def _scale(reach: float) -> float:
    """Quantisation step with which `LEVELS` steps span `reach`."""
    return max(reach / LEVELS, torch.finfo(torch.float32).tiny) if reach > 0 else 1.0


def _nearest(
    patches: Tensor,
    bank_parts: tuple[Tensor, Tensor, Tensor],
    packed: PackedBank,
    scale_and_error: tuple[float, float],
    k: int,
    bits: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """Call the C search. `bank_parts`: (M, D) bank, its (D,) mean, and the rows of its outliers."""
    from offnominal.memory import _screening

    patches, (bank, mean, outliers), (panels, start, bank_rows) = patches.contiguous(), bank_parts, packed
    count, features, columns = len(patches), bank.shape[1], PANEL * len(packed.panels)
    squared, rows = torch.zeros((count, k)), torch.zeros((count, k), dtype=torch.int64)
    exact = torch.empty(count, dtype=torch.bool)
    panels_shape = len(panels), -(-features // BYTES), PANEL, BYTES
    addresses = (
        address(patches, torch.float32, (count, features)),
        address(bank, torch.float32, (len(bank), features)),
        address(mean, torch.float32, (features,)),
        address(panels, torch.int8, panels_shape),
        address(start, torch.int32, (columns,)),
        address(bank_rows, torch.int64, (columns,)),
        address(outliers, torch.int64, (len(outliers),)),
        address(squared, torch.float32, (count, k)),
        address(rows, torch.int64, (count, k)),
        address(exact, torch.bool, (count,)),
    )
    sizes = (count, len(start), features, BYTES * panels_shape[1], len(outliers), k)
    _screening.nearest(addresses, scale_and_error, sizes, bits, threads(count))
    return squared, rows, exact
