"""Decisions for a lot of parts: which parts to pull at a stated false discovery rate, and how many are bad.

By the Benjamini-Hochberg procedure, at most the share `fdr` of the pulled parts is good, on average over lots. Conformal
p-values with one calibration set are dependent, but without ties they are positively dependent (PRDS), which suffices. With
leave-one-out calibration the rate is approximate, as the p-values are.

References
----------
Benjamini and Hochberg, "Controlling the false discovery rate", 1995.
Benjamini and Yekutieli, "The control of the false discovery rate in multiple testing under dependency", 2001.
Bates et al., "Testing for outliers with conformal p-values", 2023, theorem 2.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from offnominal.types import Mask, require

Values = npt.NDArray[np.float64]

#: Parts with a p-value above this estimate the number of good parts (lambda in Storey 2002).
LAMBDA = 0.5


@dataclass(frozen=True)
class Lot:
    """Decision for a lot of m parts.

    Attributes
    ----------
    pulled
        (m,) bool, the parts to pull.
    fdr
        Requested false discovery rate: largest share of good parts among the pulled ones, on average over lots.
    estimated_bad
        Estimated number of bad parts, see `estimated_bad`.
    smallest_pull
        Smallest number of parts that can be pulled at once, see `smallest_pull`.

    Examples
    --------
    >>> Lot(np.array([True, False]), fdr=0.1, estimated_bad=1.0, smallest_pull=1).pulled.tolist()
    [True, False]
    """

    pulled: Mask
    fdr: float
    estimated_bad: float
    smallest_pull: int


def judge_lot(p_values: npt.ArrayLike, calibration_images: int, fdr: float) -> Lot:
    """Decide which parts of a lot to pull.

    Parameters
    ----------
    p_values
        (m,) conformal p-values of the parts.
    calibration_images
        Number of calibration images.
    fdr
        Requested false discovery rate, in (0, 1).

    Raises
    ------
    ValueError
        If there is no part, or a p-value or `fdr` is out of range.

    Examples
    --------
    >>> lot = judge_lot([0.01, 0.4, 0.01, 0.9], calibration_images=99, fdr=0.1)
    >>> lot.pulled.tolist(), lot.estimated_bad, lot.smallest_pull
    ([True, False, True, False], 2.0, 1)
    """
    values = _checked(p_values)
    require(0 < fdr < 1, f"the false discovery rate must lie between 0 and 1, got {fdr}")
    return Lot(pull(values, fdr), fdr, estimated_bad(values), smallest_pull(calibration_images, len(values), fdr))


def pull(p_values: npt.ArrayLike, fdr: float) -> Mask:
    """(m,) bool, the p-values that the Benjamini-Hochberg procedure rejects at level `fdr`."""
    from scipy.stats import false_discovery_control

    # Adjusted p-values have rounding errors; those equal to the level count as rejected.
    rejected: Mask = np.asarray(false_discovery_control(_checked(p_values), method="bh") <= fdr * (1 + 1e-12))
    return rejected


def estimated_bad(p_values: npt.ArrayLike) -> float:
    """Estimated number of bad parts, m - #{p > 1/2} / (1 - 1/2), in [0, m].

    The estimate is conservative: before clipping at 0, its mean is at most the true number, because the p-value of a good part
    is above 1/2 with a probability of at least 1/2.

    References
    ----------
    Storey, "A direct approach to false discovery rates", 2002, equation 6.
    """
    values = _checked(p_values)
    good = np.count_nonzero(values > LAMBDA) / (1 - LAMBDA)
    return float(max(0.0, len(values) - good))


def smallest_pull(calibration_images: int, parts: int, fdr: float) -> int:
    """Smallest number of parts that can be pulled at once.

    The smallest p-value is 1 / (n + 1), and the j-th smallest of m must be at most `fdr * j / m`, so j >= m / (fdr (n + 1)). If
    this exceeds m, no part can be pulled.

    Parameters
    ----------
    calibration_images
        Number n of calibration images.
    parts
        Number m of parts in the lot.
    fdr
        Requested false discovery rate.

    Examples
    --------
    >>> smallest_pull(calibration_images=99, parts=50, fdr=0.1)
    5
    """
    return max(1, math.ceil(parts / (fdr * (calibration_images + 1)) - 1e-9))


def _checked(p_values: npt.ArrayLike) -> Values:
    values = np.asarray(p_values, dtype=np.float64)
    require(values.ndim == 1 and len(values) > 0, f"p-values must be (m,), m > 0, got {values.shape}")
    require(bool(((values > 0) & (values <= 1)).all()), "p-values must lie in (0, 1]")
    return values
