"""Outliers among scores: p-values against a robust null distribution, at a limited false discovery rate.

An image score is a maximum over patch positions, and such maxima follow a Gumbel distribution. Its location and scale are
estimated from the median and the 10 % quantile, which are robust to outliers. A share e of outliers shifts them to the
quantiles 0.5 / (1 - e) and 0.1 / (1 - e) of the clean scores, which widens the null and makes the test conservative. The
estimation error matters for few scores, so the p-value is computed for the pivot (score - median) / (median - 10 % quantile).
Its distribution depends on n only and is simulated, as Student's t distribution accounts for an estimated deviation.

References
----------
Fisher and Tippett, "Limiting forms of the frequency distribution of the largest or smallest member of a sample", 1928.
Gumbel, "Statistics of extremes", 1958.
Benjamini and Hochberg, "Controlling the false discovery rate", 1995.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from offnominal.types import Float, require

#: False discovery rate of suspects: largest expected share of normal images among them, if the null distribution is exact.
FALSE_SUSPECTS = 0.1
_QUANTILES = (0.1, 0.5)
#: Number of simulated sets, and of numbers per block of sets.
_SIMULATED = 4000
_BLOCK = 2_000_000


def outlier_p_values(scores: Float) -> npt.NDArray[np.float64]:
    """P-values of scores as outliers of their own distribution.

    Parameters
    ----------
    scores
        (n,) finite scores; higher is more anomalous.

    Returns
    -------
    array
        (n,) probabilities that a new normal score is at least as high. If the lower half of the scores is constant, all higher
        scores have the p-value 0.

    Raises
    ------
    ValueError
        If there is no score, or one is not finite.

    Examples
    --------
    >>> scores = np.append(np.linspace(1, 2, 30), 9).astype(np.float32)
    >>> bool(outlier_p_values(scores)[-1] < 1e-3), bool(outlier_p_values(scores)[:-1].min() > 0.05)
    (True, True)
    """
    require(scores.ndim == 1 and len(scores) > 0, f"scores must be (n,), n > 0, got {scores.shape}")
    require(bool(np.isfinite(scores).all()), "scores must be finite")
    values = scores.astype(np.float64)
    low, middle = np.quantile(values, _QUANTILES)
    if middle <= low:
        return np.where(values > middle, 0.0, 1.0)
    pivot = (values - middle) / (middle - low)
    rng = np.random.default_rng(0)
    total = np.zeros(len(values))
    sets = max(1, min(_SIMULATED, _BLOCK // len(values)))
    rounds = -(-_SIMULATED // sets)
    for _ in range(rounds):
        lows, middles = np.quantile(rng.gumbel(size=(sets, len(values))), _QUANTILES, axis=1)
        total += _survival(middles[:, None] + (middles - lows)[:, None] * pivot).sum(0)
    return total / (rounds * sets)


def called_suspect(p_values: npt.NDArray[np.float64], rate: float = FALSE_SUSPECTS) -> npt.NDArray[np.bool_]:
    """(n,) bool, the p-values that the Benjamini-Hochberg procedure rejects at the false discovery rate `rate`.

    Examples
    --------
    >>> called_suspect(np.array([0.001, 0.5, 0.9]))
    array([ True, False, False])
    """
    from scipy.stats import false_discovery_control  # slow to import

    called: npt.NDArray[np.bool_] = false_discovery_control(p_values) <= rate
    return called


def worst_share(scores: Float, share: float) -> npt.NDArray[np.bool_]:
    """(n,) bool, the `round(share * n)` highest scores; among equal scores the first count as higher.

    Examples
    --------
    >>> worst_share(np.array([3.0, 9.0, 1.0, 5.0]), 0.25)
    array([False,  True, False, False])
    """
    worst = np.zeros(len(scores), dtype=np.bool_)
    worst[np.argsort(-scores, kind="stable")[: round(share * len(scores))]] = True
    return worst


def _survival(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Survival function of the standard Gumbel distribution, 1 - exp(-exp(-x))."""
    survival: npt.NDArray[np.float64] = -np.expm1(-np.exp(-values))
    return survival
