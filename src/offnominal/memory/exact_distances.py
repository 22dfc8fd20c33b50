"""Squared distances in float64, rounded to 2^-36 relative so that equal distances stay equal."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor


def pairwise_squared(a: Tensor, b: Tensor) -> npt.NDArray[np.float64]:
    """(n, D), (m, D) float64 -> (n, m)."""
    lengths = a.square().sum(1)[:, None] + b.square().sum(1)[None]
    squared = torch.addmm(lengths, a, b.T, alpha=-2).clamp_(min=0)
    squared[squared < 1e-12 * lengths] = 0
    return rounded(squared)


def squared_to(points: Tensor, centre: Tensor) -> npt.NDArray[np.float64]:
    """(n, D), (D,) float64 -> (n,), computed from differences."""
    return rounded((points - centre).square_().sum(1))


def rounded(squared: Tensor) -> npt.NDArray[np.float64]:
    """Round float64 values to 36 bits of their mantissa."""
    bits: npt.NDArray[np.int64] = squared.numpy().view(np.int64)
    return ((bits + (1 << 15)) & ~np.int64((1 << 16) - 1)).view(np.float64)
