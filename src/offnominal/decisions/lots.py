"""A lot of parts judged together: which to pull at a stated false discovery rate, and how many are bad.

Benjamini and Hochberg 1995: of the parts pulled, at most the share `fdr` is good, on average over lots. Conformal p-values that
share one calibration set are not independent; they are positively dependent (PRDS) when scores have no ties, which is enough
(Bates et al. 2023, theorem 2, with Benjamini and Yekutieli 2001). With a leave-one-image-out calibration this is as approximate
as the p-values are.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from offnominal.types import Mask, require

Values = npt.NDArray[np.float64]

#: Parts with a p-value above this are counted as a sample of the good ones (Storey's lambda).
CALM = 0.5


@dataclass(frozen=True)
class Lot:
    """What is said of a lot of m parts.

    Attributes:
        pulled: (m,) parts to pull.
        fdr: the false discovery rate asked for: on average over lots, at most this share of the pulled parts is good.
        estimated_bad: how many parts are bad (`estimated_bad`).
        fewest: so many parts at least must stand out among the calibration images before one can be pulled.
    """

    pulled: Mask
    fdr: float
    estimated_bad: float
    fewest: int


def judge_lot(p_values: npt.ArrayLike, calibration_images: int, fdr: float) -> Lot:
    """`Lot` from the (m,) conformal p-values of its parts.

    Raises:
        ValueError: no part, p-values outside (0, 1], or `fdr` outside (0, 1).
    """
    values = _checked(p_values)
    require(0 < fdr < 1, f"the false discovery rate must lie between 0 and 1, got {fdr}")
    return Lot(pull(values, fdr), fdr, estimated_bad(values), fewest_bad(calibration_images, len(values), fdr))


def pull(p_values: npt.ArrayLike, fdr: float) -> Mask:
    """(m,) p-values -> (m,) which of them Benjamini and Hochberg's step-up procedure rejects at level `fdr`."""
    from scipy.stats import false_discovery_control

    # Adjusted values are products and quotients; what equals the level but for rounding is within it.
    rejected: Mask = np.asarray(false_discovery_control(_checked(p_values), method="bh") <= fdr * (1 + 1e-12))
    return rejected


def estimated_bad(p_values: npt.ArrayLike) -> float:
    """m - #{p > 1/2} / (1 - 1/2), within 0 and m: how many parts are not good.

    Storey 2002, *A direct approach to false discovery rates*, equation 6. Conservative: before it is cut off at 0 it is on
    average at most the true number, since a good part's p-value lies above 1/2 at least half of the time.
    """
    values = _checked(p_values)
    good = np.count_nonzero(values > CALM) / (1 - CALM)
    return float(max(0.0, len(values) - good))


def fewest_bad(calibration_images: int, parts: int, fdr: float) -> int:
    """The fewest parts that can be pulled at once.

    No p-value is below 1 / (n + 1), and the j-th smallest of m must be at most `fdr * j / m`: j >= m / (fdr (n + 1)). When this
    is more than m, nothing can be pulled whatever the parts look like.
    """
    return max(1, math.ceil(parts / (fdr * (calibration_images + 1)) - 1e-9))


def _checked(p_values: npt.ArrayLike) -> Values:
    values = np.asarray(p_values, dtype=np.float64)
    require(values.ndim == 1 and len(values) > 0, f"p-values must be (m,), m > 0, got {values.shape}")
    require(bool(((values > 0) & (values <= 1)).all()), "p-values must lie in (0, 1]")
    return values
