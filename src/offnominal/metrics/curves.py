"""The curves behind the figures, as points to draw: each goes through exactly the vertices that its figure integrates."""

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
    """What can be drawn of a set of images; None for what cannot be said without defects, good images or masks.

    Attributes:
        roc: (P, 2) false-positive rate and true-positive rate of images.
        precision_recall: (P, 2) recall and precision of images.
        pro: (P, 2) false-positive rate of pixels and mean overlap with the defect regions.
        pixel_precision_recall: (P, 2) recall and precision of pixels.
    """

    roc: Points | None = None
    precision_recall: Points | None = None
    pro: Points | None = None
    pixel_precision_recall: Points | None = None


@dataclass(frozen=True)
class Reliability:
    """Asked false-alarm rates against the rates seen on good test images.

    Attributes:
        asked: (R,) rates, ascending.
        seen: (R,) share of good test images whose p-value is at most the rate.
        low, high: (R,) ends of the 95 % interval of the seen rate.
    """

    asked: npt.NDArray[np.float64]
    seen: npt.NDArray[np.float64]
    low: npt.NDArray[np.float64]
    high: npt.NDArray[np.float64]


def roc_points(ranking: Ranking) -> Points:
    """(P, 2) vertices of true share over false-positive rate, from (0, 0) to (1, 1); ties between kinds are slanted lines.

    Vertices stand where positives are reached; between two of them only the false-positive rate grows. Of a ranking by region
    this is the PRO curve (Bergmann et al. 2021, section 4). `area_under_roc` is the area under it.
    """
    reached = np.column_stack([ranking.false_before / ranking.negatives, np.r_[0.0, ranking.true_share[:-1]]])
    passed = np.column_stack([ranking.false_count / ranking.negatives, ranking.true_share])
    between = np.stack([reached, passed], axis=1).reshape(-1, 2)
    return np.vstack([[0.0, 0.0], between, [1.0, 1.0]])


def precision_recall_points(ranking: Ranking) -> Points:
    """(T, 2) recall and precision at every distinct score of a positive; `average_precision` sums steps between them."""
    precision = ranking.true_count / (ranking.true_count + ranking.false_count)
    recall = ranking.true_count / ranking.true_count[-1]
    return np.column_stack([recall, precision])


def thinned(points: Points, limit: int = 400) -> Points:
    """At most `limit` of (P, 2) points, evenly spread along the curve's length; the first and the last stay."""
    if len(points) <= limit:
        return points
    along = np.r_[0.0, np.cumsum(np.hypot(*np.diff(points, axis=0).T))]
    chosen = np.searchsorted(along, np.linspace(0, along[-1], limit))
    kept: Points = points[np.unique(np.r_[0, np.minimum(chosen, len(points) - 1), len(points) - 1])]
    return kept


def up_to(points: Points, limit: float) -> Points:
    """The part of (P, 2) points with x at most `limit`; its end is interpolated, so the area under it is that of the curve."""
    inside = points[points[:, 0] <= limit]
    if len(inside) == len(points):
        return points
    beyond = points[len(inside)]
    share = (limit - inside[-1, 0]) / (beyond[0] - inside[-1, 0])
    return np.vstack([inside, [limit, inside[-1, 1] + share * (beyond[1] - inside[-1, 1])]])


def reliability(p_values: Sequence[float], calibrated: int) -> Reliability:
    """Whether good images are flagged as rarely as asked: (n,) p-values of good test images, at every rate that can be asked.

    `calibrated` is the number m of calibration images; rates are 1 / (m + 1), 2 / (m + 1), ... 1. The interval is that of
    Clopper and Pearson 1934 for a binomial share: it covers the true rate at least 95 times in 100.
    """
    rates = np.arange(1, calibrated + 2) / (calibrated + 1)
    count = len(p_values)
    flagged = np.searchsorted(np.sort(np.asarray(p_values, dtype=np.float64)), rates + 1e-9, side="right")
    low = np.where(flagged > 0, betaincinv(np.maximum(flagged, 1), count - flagged + 1, 0.025), 0.0)
    high = np.where(flagged < count, betaincinv(flagged + 1, np.maximum(count - flagged, 1), 0.975), 1.0)
    return Reliability(rates, flagged / count, low, high)
