"""From scores of good images to a threshold and a p-value with a stated false-alarm rate, and what of it is guaranteed.

Split conformal (Vovk et al. 2005, section 4.1; as p-values for anomaly detection: Bates et al. 2023, *Testing for outliers
with conformal p-values*, section 2): n calibration images had no part in what scores them. If a good image is exchangeable
with them, P(p-value <= alpha) <= alpha. This holds on average over the draw of the calibration images. For the images at hand
the rate is a random variable: the share of good images that score above the k-th highest of n scores follows
Beta(k, n + 1 - k) when scores have no ties, and is smaller with ties (Vovk 2012, *Conditional validity of inductive conformal
predictors*, section 3; Bates et al. 2023, section 3).

Leave-one-image-out: every image is in the bank, and is scored without its own patches. The bank was chosen with the image in
it, so the guarantee is approximate: in a simulation of independent patches, the worst case, 17 % of good images were flagged
where 10 % was stated. Folds choose the bank again without each fifth of the images; what remains approximate is that channel
statistics are those of all images and that a new image meets a bank of all of them (`benchmarks/calibration.py`). The
jackknife+ of Barber et al. (2021) proves 2 alpha, but scores a new image against n banks.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from scipy.special import betaincinv

from offnominal.types import Float, require

Method = Literal["split", "folds", "leave-one-image-out"]
SPLIT: Method = "split"
FOLDS: Method = "folds"
LEAVE_ONE_OUT: Method = "leave-one-image-out"

#: Share of the images that split conformal keeps for calibration.
HELD_SHARE = 0.2
#: With fewer images than these, how far one lies from the others says nothing.
FEWEST_APART = 20
#: Scores at and above the threshold stand apart where the gap below them is so many times that from there to the median.
APART = 1.5
#: Folds are the default up to this many images: the coreset of each takes little time then, and an image's share of the bank,
#: which makes leave-one-out optimistic, is large.
FOLDS_UP_TO = 100
#: A split is chosen where the threshold leaves this many of its images above, counting the new one: the 95 % bound of the
#: false-alarm rate then lies below twice the asked one.
ABOVE = 5


@dataclass(frozen=True)
class Calibration:
    """Held-out scores of good images, and the rate that the user asked for.

    Attributes:
        scores: (n,) float32 ascending, higher = more anomalous.
        asked: the false-alarm rate asked for, in (0, 1).
        method: how the scores were held out.
    """

    scores: Float
    asked: float
    method: Method = LEAVE_ONE_OUT

    def __post_init__(self) -> None:
        require(self.scores.ndim == 1 and len(self.scores) > 0, f"scores must be (n,), n > 0, got {self.scores.shape}")
        require(bool(np.isfinite(self.scores).all()), "scores must be finite")
        require(bool(np.all(np.diff(self.scores) >= 0)), "scores must be ascending")
        require(0 < self.asked < 1, f"the false-alarm rate must lie between 0 and 1, got {self.asked}")
        require(self.method in get_args(Method), f"the method must be one of {get_args(Method)}, got {self.method!r}")

    @property
    def count(self) -> int:
        """n, the number of calibration images."""
        return len(self.scores)

    @property
    def smallest_rate(self) -> float:
        """1 / (n + 1): the smallest false-alarm rate that n images can carry."""
        return 1 / (self.count + 1)

    @property
    def rate(self) -> float:
        """The rate in force: the asked one, or the smallest possible when that is larger."""
        return max(self.asked, self.smallest_rate)

    @property
    def enough(self) -> bool:
        """Whether the images at hand can carry the asked rate."""
        return self.asked >= self.smallest_rate

    @property
    def rank(self) -> int:
        """k: the threshold is the k-th highest of the n scores, 1 to n."""
        return int(np.floor(self.rate * (self.count + 1) + 1e-9))

    @property
    def threshold(self) -> float:
        """An image is flagged when its score lies above this; the same decision as `p_value(score) <= rate`."""
        return float(self.scores[self.count - self.rank])

    @property
    def marginal_rate(self) -> float:
        """k / (n + 1), at most `rate`: what share of good images is flagged on average over draws of calibration images."""
        return self.rank / (self.count + 1)

    @property
    def bound_95(self) -> float:
        """With 95 % confidence the share of good images flagged from now on is at most this: a quantile of Beta(k, n+1-k)."""
        return float(betaincinv(self.rank, self.count + 1 - self.rank, 0.95))

    @property
    def exact(self) -> bool:
        """Whether rate and bound are proved for exchangeable images, or approximate."""
        return self.method == SPLIT

    @property
    def apart(self) -> bool:
        """Whether the threshold lies so far above all scores below it that it rests on few images unlike the others.

        By chance that is so, of scores with an exponential tail, in 9 % of sets of 20 and in 1 % of sets of 99; of normal ones
        in 2 % and in one of some 9,000.
        """
        if self.count < max(FEWEST_APART, self.rank + 1):
            return False
        below, median = float(self.scores[self.count - self.rank - 1]), float(np.median(self.scores))
        return self.threshold - below > APART * max(below - median, 0)

    def p_value(self, score: float) -> float:
        """`(1 + #{calibration >= score}) / (n + 1)`, in (0, 1]. Raises `ValueError` where the score is NaN."""
        _require_number(score)
        above = self.count - int(np.searchsorted(self.scores, np.float32(score), side="left"))
        return (1 + above) / (self.count + 1)

    def anomalous(self, score: float) -> bool:
        """Whether the image is flagged: `score > threshold`. Raises `ValueError` where the score is NaN."""
        _require_number(score)
        return float(np.float32(score)) > self.threshold


def _require_number(score: float) -> None:
    """NaN is neither above nor below any threshold, so every comparison would call it good."""
    require(not np.isnan(score), "a score must be a number, got NaN")


def images_needed(rate: float) -> int:
    """The fewest good images that can carry a false-alarm rate."""
    return int(np.ceil(1 / rate - 1e-9)) - 1


def calibrate(scores: Float, rate: float, method: Method = LEAVE_ONE_OUT) -> Calibration:
    """`Calibration` from (n,) scores of good images in any order."""
    return Calibration(np.sort(np.asarray(scores, dtype=np.float32)), rate, method)


def choose_method(choice: Literal["auto", "folds", "leave-one-out", "split"], images: int, rate: float) -> Method:
    """How the scores of so many images are held out for a stated rate.

    `auto` splits if a fifth of the images is enough for a bound below twice the rate, `rate * (fifth + 1) >= 5`: at a rate of
    1 % from 2,495 images, at 5 % from 495, at 10 % from 245. A split is exact, but its images do not enter the bank, which
    costs detections while images are few. Up to `FOLDS_UP_TO` images it takes folds, otherwise it leaves one image out.
    """
    if choice == "auto":
        if rate * (held_count(images) + 1) >= ABOVE - 1e-9:
            return SPLIT
        return FOLDS if images <= FOLDS_UP_TO else LEAVE_ONE_OUT
    return {"split": SPLIT, "folds": FOLDS, "leave-one-out": LEAVE_ONE_OUT}[choice]


def held_count(images: int) -> int:
    """How many of `images` a split keeps for calibration: a fifth, at least one."""
    return max(1, round(HELD_SHARE * images))
