"""Comparison of two models on the same images: metrics and their difference, with confidence intervals.

Paired stratified bootstrap: images are resampled with replacement, the same images for both models, good and defective ones in
their original numbers. The interval contains the middle 95 % of the resampled values (percentile method). Images that are hard
for both models affect both metrics alike, so the interval of the difference is narrower than those of the metrics.

References
----------
Efron and Tibshirani, "An introduction to the bootstrap", 1993, chapters 8 and 13.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from offnominal.types import require

Array = npt.NDArray[np.float64]

#: Number of bootstrap resamples, and the confidence level of the intervals.
RESAMPLES = 2000
CONFIDENCE = 0.95
#: Largest number of weights in one block of resamples, 64 MB.
_BLOCK = 1 << 23


@dataclass(frozen=True)
class Interval:
    """A metric with its confidence interval.

    Examples
    --------
    >>> interval = Interval(value=0.97, low=0.95, high=0.99)
    >>> interval.low < interval.value < interval.high
    True
    """

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Paired:
    """A metric of two models A and B; `difference` is B - A.

    Examples
    --------
    >>> same = Interval(0.9, 0.8, 1.0)
    >>> Paired(a=same, b=same, difference=Interval(0.0, -0.1, 0.1)).difference.value
    0.0
    """

    a: Interval
    b: Interval
    difference: Interval


@dataclass(frozen=True)
class Verdicts:
    """Results of one model on n images.

    Attributes
    ----------
    scores
        (n,) image scores; higher is more anomalous.
    flagged
        (n,) bool, whether each image was flagged.

    Examples
    --------
    >>> Verdicts(np.array([0.2, 5.0]), np.array([False, True])).flagged.tolist()
    [False, True]
    """

    scores: Array
    flagged: npt.NDArray[np.bool_]

    def __post_init__(self) -> None:
        require(
            self.scores.shape == self.flagged.shape,
            f"expected a verdict for each score, got {self.scores.shape} scores and {self.flagged.shape} verdicts",
        )


def paired_figures(a: Verdicts, b: Verdicts, defect: npt.NDArray[np.bool_] | None, *, seed: int = 0) -> dict[str, Paired]:
    """Compare two models on the same n images.

    Parameters
    ----------
    a, b
        Results of the two models, in the same order of images.
    defect
        (n,) bool, which images are defective; None without labels.
    seed
        Seed of the bootstrap.

    Returns
    -------
    dict
        `image_auroc`, `image_ap`, `image_f1_max`, `false_alarm_rate` and `detection_rate`, as far as there are good and
        defective images; only `flagged_rate` without labels.

    Raises
    ------
    ValueError
        If there is no image, or shapes differ.

    Examples
    --------
    >>> defect = np.array([False, False, True, True])
    >>> a = Verdicts(np.array([1.0, 2.0, 1.5, 4.0]), np.array([False, False, False, True]))
    >>> b = Verdicts(np.array([1.0, 2.0, 3.0, 4.0]), np.array([False, False, True, True]))
    >>> paired_figures(a, b, defect)["image_auroc"].difference.value
    0.25
    """
    count = len(a.scores)
    require(count > 0 and len(b.scores) == count, f"both models must judge the same images, got {count} and {len(b.scores)}")
    require(defect is None or defect.shape == (count,), f"expected {count} labels, one for each image")
    strata = [np.arange(count)] if defect is None else [np.flatnonzero(defect), np.flatnonzero(~defect)]
    strata = [stratum for stratum in strata if len(stratum)]
    values = {name: (float(x[0]), float(y[0])) for name, (x, y) in _both(a, b, defect, np.ones((1, count))).items()}
    resampled: dict[str, list[tuple[Array, Array]]] = {}
    for weights in _resamples(strata, count, np.random.default_rng(seed)):
        for name, pair in _both(a, b, defect, weights).items():
            resampled.setdefault(name, []).append(pair)
    figures = {}
    for name, (value_a, value_b) in values.items():
        samples_a, samples_b = (np.concatenate(part) for part in zip(*resampled[name], strict=True))
        figures[name] = Paired(
            _interval(value_a, samples_a), _interval(value_b, samples_b), _interval(value_b - value_a, samples_b - samples_a)
        )
    return figures


def weighted_figures(
    scores: Array, flagged: npt.NDArray[np.bool_], defect: npt.NDArray[np.bool_] | None, weights: Array
) -> dict[str, Array]:
    """(R,) values of each metric for (R, n) `weights`: the number of times that each image occurs in each resample."""
    if defect is None:
        return {"flagged_rate": weights @ flagged / weights.sum(1)}
    rates = {}
    if not defect.all():
        rates["false_alarm_rate"] = weights[:, ~defect] @ flagged[~defect] / weights[:, ~defect].sum(1)
    if defect.any():
        rates["detection_rate"] = weights[:, defect] @ flagged[defect] / weights[:, defect].sum(1)
    if defect.all() or not defect.any():
        return rates
    order = np.argsort(-scores, kind="stable")
    starts = np.flatnonzero(np.r_[True, np.diff(scores[order]) != 0])
    ranked = weights[:, order]
    true = np.add.reduceat(ranked * defect[order], starts, axis=1)
    false = np.add.reduceat(ranked * ~defect[order], starts, axis=1)
    true_count, false_count = true.cumsum(1), false.cumsum(1)
    positives, negatives = true_count[:, -1], false_count[:, -1]
    below = negatives[:, None] - false_count + false / 2
    flagged_count = true_count + false_count
    precision = np.divide(true_count, flagged_count, out=np.zeros_like(flagged_count), where=flagged_count > 0)
    return {
        "image_auroc": (true * below).sum(1) / (positives * negatives),
        "image_ap": (true * precision).sum(1) / positives,
        "image_f1_max": (2 * true_count / (flagged_count + positives[:, None])).max(1),
        **rates,
    }


def _both(a: Verdicts, b: Verdicts, defect: npt.NDArray[np.bool_] | None, weights: Array) -> dict[str, tuple[Array, Array]]:
    first = weighted_figures(a.scores, a.flagged, defect, weights)
    second = weighted_figures(b.scores, b.flagged, defect, weights)
    return {name: (first[name], second[name]) for name in first}


def _resamples(strata: list[npt.NDArray[np.intp]], count: int, random: np.random.Generator) -> Iterator[Array]:
    """Blocks of (R, count) weights; the size of each stratum is kept."""
    block = max(1, min(RESAMPLES, _BLOCK // count))
    for start in range(0, RESAMPLES, block):
        rows = min(block, RESAMPLES - start)
        weights = np.zeros((rows, count))
        for stratum in strata:
            size = len(stratum)
            weights[:, stratum] = random.multinomial(size, np.full(size, 1 / size), size=rows)
        yield weights


def _interval(value: float, samples: Array) -> Interval:
    low, high = np.quantile(samples, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return Interval(value, float(low), float(high))
