"""How well scores separate positives from negatives: AUROC, AP, F1-max, exact with ties."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Scores = npt.NDArray[np.floating]


@dataclass(frozen=True)
class Ranking:
    """Distinct positive scores, high to low, and what lies at or above each of them.

    Attributes:
        thresholds: (T,) distinct scores of positives, descending.
        true_share: (T,) share (by weight) of positives at or above the threshold.
        true_count: (T,) number of positives at or above it.
        false_count: (T,) number of negatives at or above it.
        false_before: (T,) number of negatives strictly above it.
        negatives: number of negatives.
    """

    thresholds: Scores
    true_share: npt.NDArray[np.float64]
    true_count: npt.NDArray[np.int64]
    false_count: npt.NDArray[np.int64]
    false_before: npt.NDArray[np.int64]
    negatives: int


def rank(positives: Scores, negatives: Scores) -> Ranking:
    """Rank (P,) positive against (Q,) negative scores, both not empty."""
    return rank_blocks(positives, [negatives])


def rank_blocks(positives: Scores, negatives: Iterable[Scores]) -> Ranking:
    """The same, exactly, with the negatives in blocks: one is sorted at a time, so that gigapixels are feasible."""
    ordered = np.sort(positives)[::-1]
    last = _last_of_equals(ordered)
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
    """(T,) `true_share` of a ranking of (P,) positives that weigh (P,) `weights` instead of 1 each."""
    order = np.argsort(positives, kind="stable")[::-1]
    weight = weights[order].astype(np.float64)
    shares: npt.NDArray[np.float64] = np.cumsum(weight)[_last_of_equals(positives[order])] / weight.sum()
    return shares


def _last_of_equals(ordered: Scores) -> npt.NDArray[np.int64]:
    return np.append(np.flatnonzero(np.diff(ordered)), len(ordered) - 1)


def area_under_roc(ranking: Ranking, limit: float = 1.0) -> float:
    """Area under true share over false-positive rate from 0 to `limit`, divided by `limit`; ties count half.

    Each positive adds the part of the range that lies right of where it is reached; among tied negatives that is a ramp.
    """
    gained = np.diff(ranking.true_share, prepend=0.0)
    before = ranking.false_before / ranking.negatives
    upto = ranking.false_count / ranking.negatives
    tied = upto - before
    inside = np.clip(limit - before, 0, tied)
    ramp = np.divide(inside**2, 2 * tied, out=np.zeros_like(tied), where=tied > 0)
    return float(np.sum(gained * (ramp + np.clip(limit - upto, 0, None))) / limit)


def average_precision(ranking: Ranking) -> float:
    """Sum over thresholds of the gained recall times the precision there (no interpolation)."""
    gained = np.diff(ranking.true_share, prepend=0.0)
    return float(np.sum(gained * ranking.true_count / (ranking.true_count + ranking.false_count)))


def best_f1(ranking: Ranking) -> float:
    """The largest F1 over all thresholds."""
    flagged = ranking.true_count + ranking.false_count
    return float(np.max(2 * ranking.true_count / (flagged + ranking.true_count[-1])))


def auroc(scores: Scores, positive: npt.NDArray[np.bool_]) -> float:
    """AUROC of (n,) scores; NaN when one of the two kinds is missing."""
    if positive.all() or not positive.any():
        return float("nan")
    return area_under_roc(rank(scores[positive], scores[~positive]))
