"""From scores of good images to a threshold and a p-value with a stated false-alarm rate.

Split-conformal prediction (Vovk et al. 2005; as p-values for anomaly detection: Bates et al. 2023): if a good image is
exchangeable with n calibration images, P(p-value <= alpha) <= alpha for it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from offnominal.types import Float, require


@dataclass(frozen=True)
class Calibration:
    """Held-out scores of good images, and the rate that the user asked for.

    Attributes:
        scores: (n,) float32 ascending, higher = more anomalous.
        asked: the false-alarm rate asked for, in (0, 1).
    """

    scores: Float
    asked: float

    def __post_init__(self) -> None:
        require(self.scores.ndim == 1 and len(self.scores) > 0, f"scores must be (n,), n > 0, got {self.scores.shape}")
        require(bool(np.isfinite(self.scores).all()), "scores must be finite")
        require(bool(np.all(np.diff(self.scores) >= 0)), "scores must be ascending")
        require(0 < self.asked < 1, f"the false-alarm rate must lie between 0 and 1, got {self.asked}")

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
    def threshold(self) -> float:
        """An image is flagged when its score lies above this; the same decision as `p_value(score) <= rate`."""
        flagged = int(np.floor(self.rate * (self.count + 1) + 1e-9))
        return float(self.scores[self.count - flagged])

    def p_value(self, score: float) -> float:
        """`(1 + #{calibration >= score}) / (n + 1)`, in (0, 1]."""
        above = self.count - int(np.searchsorted(self.scores, np.float32(score), side="left"))
        return (1 + above) / (self.count + 1)

    def anomalous(self, score: float) -> bool:
        """Whether the image is flagged: `score > threshold`."""
        return float(np.float32(score)) > self.threshold


def images_needed(rate: float) -> int:
    """The fewest good images that can carry a false-alarm rate."""
    return int(np.ceil(1 / rate - 1e-9)) - 1


def calibrate(scores: Float, rate: float) -> Calibration:
    """`Calibration` from (n,) scores of good images in any order."""
    return Calibration(np.sort(np.asarray(scores, dtype=np.float32)), rate)
