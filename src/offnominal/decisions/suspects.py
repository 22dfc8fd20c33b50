"""Which of many scores do not belong to the others: p-values against a robust null, and how many may be called wrong.

The score of an image is a maximum over its places, and maxima of many follow a Gumbel law (Fisher and Tippett 1928;
Gumbel 1958). Its location and scale are taken from the 10 % quantile and the median, which outliers hardly reach: with a
share e of them above both, they are the clean scores' quantiles at 0.1 / (1 - e) and 0.5 / (1 - e), which widens the null a
little, so that fewer are called. Two quantiles of few scores say little about the tail, so the p-value is that of a new
score measured in them: (score - median) / (median - 10 % quantile) has a law that depends on nothing but n, which is
simulated, as Student's t is the law of what is measured in an estimated deviation.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from offnominal.types import Float, require

#: Share of the images called suspect that may be none (Benjamini and Hochberg 1995), were the null exact.
FALSE_SUSPECTS = 0.1
_QUANTILES = (0.1, 0.5)
_SIMULATED = 4000
_AT_ONCE = 2_000_000


def outlier_p_values(scores: Float) -> npt.NDArray[np.float64]:
    """(n,) scores, higher = more anomalous -> (n,) probabilities that a new score of the bulk's Gumbel law is as high.

    Where the lower half of the scores is all the same, whatever lies above it has the p-value 0.
    """
    require(scores.ndim == 1 and len(scores) > 0, f"scores must be (n,), n > 0, got {scores.shape}")
    require(bool(np.isfinite(scores).all()), "scores must be finite")
    values = scores.astype(np.float64)
    low, middle = np.quantile(values, _QUANTILES)
    if middle <= low:
        return np.where(values > middle, 0.0, 1.0)
    measured = (values - middle) / (middle - low)
    rng = np.random.default_rng(0)
    total = np.zeros(len(values))
    sets = max(1, min(_SIMULATED, _AT_ONCE // len(values)))
    rounds = -(-_SIMULATED // sets)
    for _ in range(rounds):
        lows, middles = np.quantile(rng.gumbel(size=(sets, len(values))), _QUANTILES, axis=1)
        total += _above(middles[:, None] + (middles - lows)[:, None] * measured).sum(0)
    return total / (rounds * sets)


def called_suspect(p_values: npt.NDArray[np.float64], rate: float = FALSE_SUSPECTS) -> npt.NDArray[np.bool_]:
    """(n,) whether Benjamini and Hochberg's procedure rejects at the false discovery rate `rate`."""
    from scipy.stats import false_discovery_control  # half a second of start-up

    called: npt.NDArray[np.bool_] = false_discovery_control(p_values) <= rate
    return called


def worst_share(scores: Float, share: float) -> npt.NDArray[np.bool_]:
    """(n,) whether a score is among the `round(share * n)` highest; of equal ones the first count as higher."""
    worst = np.zeros(len(scores), dtype=np.bool_)
    worst[np.argsort(-scores, kind="stable")[: round(share * len(scores))]] = True
    return worst


def _above(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Probability that the standard Gumbel law, exp(-exp(-x)), gives more."""
    above: npt.NDArray[np.float64] = -np.expm1(-np.exp(-values))
    return above
