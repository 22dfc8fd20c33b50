"""Calibration: thresholds and p-values with a stated false-alarm rate from scores of good images.

Split conformal: the n calibration images are not used to fit the model. If a new good image is exchangeable with them,
P(p-value <= alpha) <= alpha. This holds on average over draws of the calibration images. For a given draw, the share of good
images with a score above the k-th highest of n scores follows Beta(k, n + 1 - k) without ties, and is smaller with ties.

Leave-one-image-out: every image is in the bank and is scored without its own patches. The coreset was selected with the image,
so the guarantee is approximate: in the worst case, a simulation of independent patches, 17 % of good images were flagged at a
stated rate of 10 %.

Folds: the bank is built again without each fifth of the images. The guarantee is still approximate, because the channel
statistics include all images and a new image is compared with a bank of all images (`benchmarks/calibration.py`). The
jackknife+ guarantees 2 alpha, but scores a new image against n banks.

References
----------
Vovk et al., "Algorithmic learning in a random world", 2005, section 4.1 (split conformal).
Vovk, "Conditional validity of inductive conformal predictors", 2012, section 3 (rate for a given draw).
Barber et al., "Predictive inference with the jackknife+", 2021.
Bates et al., "Testing for outliers with conformal p-values", 2023, sections 2 and 3 (p-values for anomaly detection).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from scipy.special import betaincinv

from offnominal.types import Float, require

Method = Literal["split", "folds", "leave-one-out"]
SPLIT: Method = "split"
FOLDS: Method = "folds"
LEAVE_ONE_OUT: Method = "leave-one-out"

#: Share of the images that split conformal holds out for calibration.
HELD_OUT_SHARE = 0.2
#: Fewest images for which `Calibration.threshold_isolated` is meaningful.
ISOLATED_MIN_IMAGES = 20
#: The threshold is isolated if the gap below it is this many times the distance from there to the median.
ISOLATED_GAP = 1.5
#: Folds are the default up to this number of images. Few images make the five coresets fast and leave-one-out inaccurate.
FOLDS_UP_TO = 100
#: A split is the default if at least this rank (k, see `Calibration.rank`) remains. The 95 % bound of the false-alarm rate is
#: then below twice the requested rate.
SPLIT_MIN_RANK = 5


@dataclass(frozen=True)
class Calibration:
    """Held-out scores of good images, with the requested false-alarm rate.

    Attributes
    ----------
    scores
        (n,) float32, ascending; higher is more anomalous.
    requested_rate
        Requested false-alarm rate, in (0, 1).
    method
        How the scores were held out.

    Examples
    --------
    >>> calibration = calibrate(np.arange(1.0, 20.0), rate=0.1)  # 19 scores from 1 to 19
    >>> calibration.threshold, calibration.anomalous(18.5), calibration.p_value(18.5)
    (18.0, True, 0.1)
    """

    scores: Float
    requested_rate: float
    method: Method = LEAVE_ONE_OUT

    def __post_init__(self) -> None:
        require(self.scores.ndim == 1 and len(self.scores) > 0, f"scores must be (n,), n > 0, got {self.scores.shape}")
        require(bool(np.isfinite(self.scores).all()), "scores must be finite")
        require(bool(np.all(np.diff(self.scores) >= 0)), "scores must be ascending")
        require(0 < self.requested_rate < 1, f"the false-alarm rate must lie between 0 and 1, got {self.requested_rate}")
        require(self.method in get_args(Method), f"the method must be one of {get_args(Method)}, got {self.method!r}")

    @property
    def count(self) -> int:
        """Number n of calibration images."""
        return len(self.scores)

    @property
    def smallest_rate(self) -> float:
        """Smallest attainable false-alarm rate, 1 / (n + 1)."""
        return 1 / (self.count + 1)

    @property
    def rate(self) -> float:
        """Effective false-alarm rate: the requested rate, but at least `smallest_rate`."""
        return max(self.requested_rate, self.smallest_rate)

    @property
    def enough(self) -> bool:
        """Whether the requested rate is attainable with n images."""
        return self.requested_rate >= self.smallest_rate

    @property
    def rank(self) -> int:
        """Rank k, 1 to n: the threshold is the k-th highest score."""
        return int(np.floor(self.rate * (self.count + 1) + 1e-9))

    @property
    def threshold(self) -> float:
        """Decision threshold: `score > threshold` is equivalent to `p_value(score) <= rate`."""
        return float(self.scores[self.count - self.rank])

    @property
    def marginal_rate(self) -> float:
        """Expected share of flagged good images over draws of calibration images: k / (n + 1), at most `rate`."""
        return self.rank / (self.count + 1)

    @property
    def bound_95(self) -> float:
        """Upper 95 % confidence bound of the future share of flagged good images, a quantile of Beta(k, n + 1 - k)."""
        return float(betaincinv(self.rank, self.count + 1 - self.rank, 0.95))

    @property
    def exact(self) -> bool:
        """Whether the rate and its bound are exact for exchangeable images; otherwise they are approximate."""
        return self.method == SPLIT

    @property
    def threshold_isolated(self) -> bool:
        """Whether the threshold lies far above all lower scores, so that it depends on a few unusual images.

        With exponentially distributed scores this happens by chance in 9 % of sets of 20 and in 1 % of sets of 99; with
        normally distributed scores in 2 % and 0.01 %.
        """
        if self.count < max(ISOLATED_MIN_IMAGES, self.rank + 1):
            return False
        below, median = float(self.scores[self.count - self.rank - 1]), float(np.median(self.scores))
        return self.threshold - below > ISOLATED_GAP * max(below - median, 0)

    def p_value(self, score: float) -> float:
        """Conformal p-value `(1 + #{calibration scores >= score}) / (n + 1)`, in (0, 1]; raises `ValueError` for NaN."""
        _require_number(score)
        above = self.count - int(np.searchsorted(self.scores, np.float32(score), side="left"))
        return (1 + above) / (self.count + 1)

    def anomalous(self, score: float) -> bool:
        """Whether `score > threshold`; raises `ValueError` for NaN."""
        _require_number(score)
        return float(np.float32(score)) > self.threshold


def _require_number(score: float) -> None:
    """Reject NaN, which every comparison would call good."""
    require(not np.isnan(score), "a score must be a number, got NaN")


def images_needed(rate: float) -> int:
    """Smallest number of calibration images with which a false-alarm rate is attainable.

    Examples
    --------
    >>> images_needed(0.01)
    99
    """
    return int(np.ceil(1 / rate - 1e-9)) - 1


def calibrate(scores: Float, rate: float, method: Method = LEAVE_ONE_OUT) -> Calibration:
    """Create a `Calibration` from (n,) scores of good images in any order.

    Examples
    --------
    >>> calibrate(np.array([2.0, 1.0, 3.0]), rate=0.25).threshold
    3.0
    """
    return Calibration(np.sort(np.asarray(scores, dtype=np.float32)), rate, method)


def choose_method(choice: Literal["auto", "folds", "leave-one-out", "split"], images: int, rate: float) -> Method:
    """Choose how the scores of the training images are held out.

    `auto` chooses a split if a fifth of the images bounds the false-alarm rate below twice the requested one: at a rate of 1 %
    from 2,495 images, at 5 % from 495, at 10 % from 245. A split is exact, but its images do not enter the bank, which costs
    detections if images are few. Otherwise `auto` chooses folds up to `FOLDS_UP_TO` images, and leave-one-out beyond.

    Parameters
    ----------
    choice
        The setting `calibration`.
    images
        Number of training images.
    rate
        Requested false-alarm rate.

    Examples
    --------
    >>> choose_method("auto", 60, 0.01), choose_method("auto", 500, 0.01), choose_method("auto", 500, 0.05)
    ('folds', 'leave-one-out', 'split')
    """
    if choice == "auto":
        if rate * (split_size(images) + 1) >= SPLIT_MIN_RANK - 1e-9:
            return SPLIT
        return FOLDS if images <= FOLDS_UP_TO else LEAVE_ONE_OUT
    return choice


def split_size(images: int) -> int:
    """Number of images that a split holds out for calibration: one fifth, at least one.

    Examples
    --------
    >>> split_size(500)
    100
    """
    return max(1, round(HELD_OUT_SHARE * images))
