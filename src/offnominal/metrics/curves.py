"""Curves of the metrics, with exactly the vertices that the metrics integrate."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.special import betaincinv

from offnominal.metrics.ranking import Ranking

#: (P, 2) float64 points `(x, y)`, x ascending.
Points = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Curves:
    """Curves of a set of images; None without the defects, good images or masks that a curve needs.

    Attributes
    ----------
    roc
        (P, 2) false-positive rate and true-positive rate of images.
    precision_recall
        (P, 2) recall and precision of images.
    pro
        (P, 2) false-positive rate of pixels and mean overlap with the defect regions.
    pixel_precision_recall
        (P, 2) recall and precision of pixels.

    Examples
    --------
    >>> Curves(roc=np.array([[0.0, 0.0], [0.0, 1.0], [1.0, 1.0]])).pro is None
    True
    """

    roc: Points | None = None
    precision_recall: Points | None = None
    pro: Points | None = None
    pixel_precision_recall: Points | None = None


@dataclass(frozen=True)
class Reliability:
    """Requested and observed false-alarm rates, see `reliability`.

    Attributes
    ----------
    requested
        (R,) requested rates, ascending.
    observed
        (R,) observed share of good test images with a p-value of at most the rate.
    low, high
        (R,) 95 % confidence interval of the observed rate.

    Examples
    --------
    >>> rates = np.array([0.5, 1.0])
    >>> Reliability(rates, rates, low=rates / 2, high=np.ones(2)).requested.tolist()
    [0.5, 1.0]
    """

    requested: npt.NDArray[np.float64]
    observed: npt.NDArray[np.float64]
    low: npt.NDArray[np.float64]
    high: npt.NDArray[np.float64]


def roc_points(ranking: Ranking) -> Points:
    """(P, 2) vertices of the ROC curve, from (0, 0) to (1, 1); ties between positives and negatives give slanted lines.

    `area_under_roc` is the area under the curve. For a ranking by region it is the PRO curve.

    Examples
    --------
    >>> from offnominal.metrics import rank
    >>> roc_points(rank(np.array([3.0, 1.0]), np.array([2.0, 0.0]))).tolist()
    [[0.0, 0.0], [0.0, 0.0], [0.0, 0.5], [0.5, 0.5], [0.5, 1.0], [1.0, 1.0]]

    References
    ----------
    Bergmann et al., "The MVTec anomaly detection dataset", 2021, section 4 (PRO).
    """
    reached = np.column_stack([ranking.false_before / ranking.negatives, np.r_[0.0, ranking.true_share[:-1]]])
    passed = np.column_stack([ranking.false_count / ranking.negatives, ranking.true_share])
    between = np.stack([reached, passed], axis=1).reshape(-1, 2)
    return np.vstack([[0.0, 0.0], between, [1.0, 1.0]])


def precision_recall_points(ranking: Ranking) -> Points:
    """(T, 2) recall and precision at each distinct positive score; `average_precision` sums the steps between them.

    Examples
    --------
    >>> from offnominal.metrics import rank
    >>> precision_recall_points(rank(np.array([3.0, 1.0]), np.array([2.0, 0.0]))).round(2).tolist()
    [[0.5, 1.0], [1.0, 0.67]]
    """
    precision = ranking.true_count / (ranking.true_count + ranking.false_count)
    recall = ranking.true_count / ranking.true_count[-1]
    return np.column_stack([recall, precision])


def thinned(points: Points, limit: int = 400) -> Points:
    """Select at most `limit` of (P, 2) points, evenly spaced along the curve; the first and last point are kept.

    Examples
    --------
    >>> line = np.linspace([0, 0], [1, 1], 1001)
    >>> len(thinned(line, 11))
    11
    """
    if len(points) <= limit:
        return points
    along = np.r_[0.0, np.cumsum(np.hypot(*np.diff(points, axis=0).T))]
    indices = np.searchsorted(along, np.linspace(0, along[-1], limit))
    kept: Points = points[np.unique(np.r_[0, np.minimum(indices, len(points) - 1), len(points) - 1])]
    return kept


def up_to(points: Points, limit: float) -> Points:
    """Cut (P, 2) points at x = `limit`, with an interpolated end point, so that the area up to there is kept.

    Examples
    --------
    >>> up_to(np.array([[0.0, 0.0], [1.0, 1.0]]), 0.3).tolist()
    [[0.0, 0.0], [0.3, 0.3]]
    """
    inside = points[points[:, 0] <= limit]
    if len(inside) == len(points):
        return points
    beyond = points[len(inside)]
    share = (limit - inside[-1, 0]) / (beyond[0] - inside[-1, 0])
    return np.vstack([inside, [limit, inside[-1, 1] + share * (beyond[1] - inside[-1, 1])]])


def reliability(p_values: Sequence[float], calibrated: int) -> Reliability:
    """Compare requested and observed false-alarm rates, at every attainable rate.

    Parameters
    ----------
    p_values
        (n,) p-values of good test images.
    calibrated
        Number m of calibration images; the rates are 1 / (m + 1), 2 / (m + 1), ... 1.

    Returns
    -------
    Reliability
        Rates with a Clopper-Pearson interval, which covers the true rate with a probability of at least 95 %.

    Examples
    --------
    >>> result = reliability([0.25, 0.5, 0.75, 1.0], calibrated=3)
    >>> result.requested.tolist(), result.observed.tolist()
    ([0.25, 0.5, 0.75, 1.0], [0.25, 0.5, 0.75, 1.0])

    References
    ----------
    Clopper and Pearson, "The use of confidence or fiducial limits illustrated in the case of the binomial", 1934.
    """
    rates = np.arange(1, calibrated + 2) / (calibrated + 1)
    count = len(p_values)
    flagged = np.searchsorted(np.sort(np.asarray(p_values, dtype=np.float64)), rates + 1e-9, side="right")
    low = np.where(flagged > 0, betaincinv(np.maximum(flagged, 1), count - flagged + 1, 0.025), 0.0)
    high = np.where(flagged < count, betaincinv(flagged + 1, np.maximum(count - flagged, 1), 0.975), 1.0)
    return Reliability(rates, flagged / count, low, high)
