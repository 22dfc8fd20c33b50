"""Two models on the same images: figures with intervals, and the interval of their difference.

Paired bootstrap (Efron and Tibshirani 1993, chapters 8 and 13): images are drawn with replacement, the same ones for both
models, good and defective ones each in their number; the interval holds the middle 95 % of what the draws give (percentile
method). What both models find hard is thus drawn for both, and the difference is known better than either figure.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from offnominal.types import require

Array = npt.NDArray[np.float64]

RESAMPLES = 2000
CONFIDENCE = 0.95
#: Numbers that one block of draws may take.
_CELLS = 1 << 23


@dataclass(frozen=True)
class Interval:
    """A figure on the images as they are, and the ends of its interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Paired:
    """One figure of two models A and B; `difference` is B less A."""

    a: Interval
    b: Interval
    difference: Interval


@dataclass(frozen=True)
class Verdicts:
    """What one model said of n images: (n,) scores, and (n,) whether each was flagged."""

    scores: Array
    flagged: npt.NDArray[np.bool_]

    def __post_init__(self) -> None:
        require(self.scores.shape == self.flagged.shape, f"{self.scores.shape} scores but {self.flagged.shape} verdicts")


def paired_figures(a: Verdicts, b: Verdicts, defect: npt.NDArray[np.bool_] | None, *, seed: int = 0) -> dict[str, Paired]:
    """Figures of two models on the same n images.

    Args:
        a: verdicts of the first, in the order of the images.
        b: verdicts of the second, in the same order.
        defect: (n,) which images are defective; None where nobody said.
        seed: of the draws.

    Returns:
        `image_auroc, image_ap, image_f1_max, false_alarm_rate, detection_rate`, as `figures` names them, as far as there are
        good and defective images; `flagged_rate` alone without labels.

    Raises:
        ValueError: no image, or shapes that differ.
    """
    count = len(a.scores)
    require(count > 0 and len(b.scores) == count, f"both models must judge the same images, got {count} and {len(b.scores)}")
    require(defect is None or defect.shape == (count,), "one label for each image is needed")
    kinds = [np.arange(count)] if defect is None else [np.flatnonzero(defect), np.flatnonzero(~defect)]
    kinds = [kind for kind in kinds if len(kind)]
    whole = np.ones((1, count))
    at = {name: (float(x[0]), float(y[0])) for name, (x, y) in _both(a, b, defect, whole).items()}
    drawn: dict[str, list[tuple[Array, Array]]] = {}
    for weights in _draws(kinds, count, np.random.default_rng(seed)):
        for name, pair in _both(a, b, defect, weights).items():
            drawn.setdefault(name, []).append(pair)
    found = {}
    for name, (value_a, value_b) in at.items():
        draws_a, draws_b = (np.concatenate(part) for part in zip(*drawn[name], strict=True))
        found[name] = Paired(
            _interval(value_a, draws_a), _interval(value_b, draws_b), _interval(value_b - value_a, draws_b - draws_a)
        )
    return found


def weighted_figures(
    scores: Array, flagged: npt.NDArray[np.bool_], defect: npt.NDArray[np.bool_] | None, weights: Array
) -> dict[str, Array]:
    """(R,) of every figure, where image i counts `weights[r, i]` times (0, 1, 2, ...) in draw r; weights: (R, n)."""
    if defect is None:
        return {"flagged_rate": weights @ flagged / weights.sum(1)}
    found = {}
    if not defect.all():
        found["false_alarm_rate"] = weights[:, ~defect] @ flagged[~defect] / weights[:, ~defect].sum(1)
    if defect.any():
        found["detection_rate"] = weights[:, defect] @ flagged[defect] / weights[:, defect].sum(1)
    if defect.all() or not defect.any():
        return found
    order = np.argsort(-scores, kind="stable")
    starts = np.flatnonzero(np.r_[True, np.diff(scores[order]) != 0])
    ranked = weights[:, order]
    true = np.add.reduceat(ranked * defect[order], starts, axis=1)
    false = np.add.reduceat(ranked * ~defect[order], starts, axis=1)
    found_so_far, false_so_far = true.cumsum(1), false.cumsum(1)
    positives, negatives = found_so_far[:, -1], false_so_far[:, -1]
    below = negatives[:, None] - false_so_far + false / 2
    flagged_so_far = found_so_far + false_so_far
    precision = np.divide(found_so_far, flagged_so_far, out=np.zeros_like(flagged_so_far), where=flagged_so_far > 0)
    return {
        "image_auroc": (true * below).sum(1) / (positives * negatives),
        "image_ap": (true * precision).sum(1) / positives,
        "image_f1_max": (2 * found_so_far / (flagged_so_far + positives[:, None])).max(1),
        **found,
    }


def _both(a: Verdicts, b: Verdicts, defect: npt.NDArray[np.bool_] | None, weights: Array) -> dict[str, tuple[Array, Array]]:
    first = weighted_figures(a.scores, a.flagged, defect, weights)
    second = weighted_figures(b.scores, b.flagged, defect, weights)
    return {name: (first[name], second[name]) for name in first}


def _draws(kinds: list[npt.NDArray[np.intp]], count: int, random: np.random.Generator) -> Iterator[Array]:
    """(R, count) how often each image is drawn, in blocks of R; each kind is drawn as often as it has images."""
    block = max(1, min(RESAMPLES, _CELLS // count))
    for start in range(0, RESAMPLES, block):
        rows = min(block, RESAMPLES - start)
        weights = np.zeros((rows, count))
        for kind in kinds:
            weights[:, kind] = random.multinomial(len(kind), np.full(len(kind), 1 / len(kind)), size=rows)
        yield weights


def _interval(value: float, draws: Array) -> Interval:
    low, high = np.quantile(draws, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return Interval(value, float(low), float(high))
