"""Ranking metrics of positives against negatives: AUROC, average precision and maximal F1, exact with ties."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Scores = npt.NDArray[np.floating]


@dataclass(frozen=True)
class Ranking:
    """Counts at each distinct positive score, from high to low.

    Attributes
    ----------
    thresholds
        (T,) distinct scores of positives, descending.
    true_share
        (T,) weighted share of positives at or above the threshold.
    true_count
        (T,) number of positives at or above the threshold.
    false_count
        (T,) number of negatives at or above the threshold.
    false_before
        (T,) number of negatives strictly above the threshold.
    negatives
        Number of negatives.

    Examples
    --------
    >>> ranking = rank(np.array([3.0, 1.0]), np.array([2.0, 0.0]))
    >>> ranking.thresholds.tolist(), ranking.true_count.tolist(), ranking.false_count.tolist()
    ([3.0, 1.0], [1, 2], [0, 1])
    """

    thresholds: Scores
    true_share: npt.NDArray[np.float64]
    true_count: npt.NDArray[np.int64]
    false_count: npt.NDArray[np.int64]
    false_before: npt.NDArray[np.int64]
    negatives: int


def rank(positives: Scores, negatives: Scores) -> Ranking:
    """Rank (P,) positive against (Q,) negative scores; neither may be empty.

    Examples
    --------
    >>> rank(np.array([0.9]), np.array([0.1, 0.2])).negatives
    2
    """
    return rank_blocks(positives, [negatives])


def rank_blocks(positives: Scores, negatives: Iterable[Scores]) -> Ranking:
    """Like `rank`, with the negatives in blocks that are sorted one at a time, to limit the memory."""
    ordered = np.sort(positives)[::-1]
    last = _last_of_ties(ordered)
    thresholds = ordered[last]
    count = 0
    false_count = np.zeros(len(thresholds), np.int64)
    false_before = np.zeros(len(thresholds), np.int64)
    for block in negatives:
        ascending = np.sort(block)
        count += len(ascending)
        false_count += len(ascending) - np.searchsorted(ascending, thresholds, side="left")
        false_before += len(ascending) - np.searchsorted(ascending, thresholds, side="right")
    return Ranking(thresholds, (last + 1) / len(positives), last + 1, false_count, false_before, count)


def true_shares(positives: Scores, weights: Scores) -> npt.NDArray[np.float64]:
    """(T,) `true_share` of a ranking of (P,) positives with (P,) `weights`."""
    order = np.argsort(positives, kind="stable")[::-1]
    weight = weights[order].astype(np.float64)
    shares: npt.NDArray[np.float64] = np.cumsum(weight)[_last_of_ties(positives[order])] / weight.sum()
    return shares


def _last_of_ties(ordered: Scores) -> npt.NDArray[np.int64]:
    """Index of the last element of each run of equal scores."""
    return np.append(np.flatnonzero(np.diff(ordered)), len(ordered) - 1)


def area_under_roc(ranking: Ranking, limit: float = 1.0) -> float:
    """Area under the ROC curve up to a false-positive rate, divided by that rate; ties count half.

    Parameters
    ----------
    ranking
        Ranking of images, pixels or defect regions.
    limit
        Largest false-positive rate, in (0, 1].

    Returns
    -------
    float
        Area in [0, 1]; higher is better.

    Examples
    --------
    >>> ranking = rank(np.array([3.0, 1.0]), np.array([2.0, 0.0]))
    >>> area_under_roc(ranking), area_under_roc(ranking, limit=0.5)
    (0.75, 0.5)
    """
    gained = np.diff(ranking.true_share, prepend=0.0)
    before = ranking.false_before / ranking.negatives
    after = ranking.false_count / ranking.negatives
    tied = after - before
    # A positive adds the range to the right of its false-positive rate; ties with negatives add a ramp.
    inside = np.clip(limit - before, 0, tied)
    ramp = np.divide(inside**2, 2 * tied, out=np.zeros_like(tied), where=tied > 0)
    return float(np.sum(gained * (ramp + np.clip(limit - after, 0, None))) / limit)


def average_precision(ranking: Ranking) -> float:
    """Average precision: sum over thresholds of the increase in recall times the precision, without interpolation.

    Examples
    --------
    >>> round(average_precision(rank(np.array([3.0, 1.0]), np.array([2.0, 0.0]))), 3)
    0.833
    """
    gained = np.diff(ranking.true_share, prepend=0.0)
    return float(np.sum(gained * ranking.true_count / (ranking.true_count + ranking.false_count)))


def best_f1(ranking: Ranking) -> float:
    """Largest F1 over all thresholds.

    Examples
    --------
    >>> best_f1(rank(np.array([3.0, 1.0]), np.array([2.0, 0.0])))
    0.8
    """
    flagged = ranking.true_count + ranking.false_count
    return float(np.max(2 * ranking.true_count / (flagged + ranking.true_count[-1])))


def auroc(scores: Scores, positive: npt.NDArray[np.bool_]) -> float:
    """AUROC of (n,) scores with (n,) bool labels; NaN without positives or without negatives.

    Examples
    --------
    >>> auroc(np.array([0.1, 0.9, 0.4, 0.8]), np.array([False, True, False, True]))
    1.0
    """
    if positive.all() or not positive.any():
        return float("nan")
    return area_under_roc(rank(scores[positive], scores[~positive]))
