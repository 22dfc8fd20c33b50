"""How brightly images are lit, and what of it the network does not see: as much as good images differ in it.

Two good parts differ by lamp and shutter first. Left in, that makes up a good share of what is normal, and hides defects. What
is taken out is bounded by what good images show, so that a part that lies far beyond them stays darker, or brighter.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from offnominal.types import Float, require

#: The darkest mean that is told from black, in shares of the range.
BLACK = 1e-3
#: How many standard deviations of good images are evened out, at most.
EVENED = 2.0
#: From the 10 % to the 90 % quantile of a normal distribution are so many standard deviations.
_FROM_10_TO_90 = 2.563

Means = npt.NDArray[np.float64]


def levels(pixels: Float) -> Means:
    """(B, 3, H, W), about 0 to 1 -> (B,): the mean of every image, not below `BLACK`."""
    means: Means = np.maximum(_of_channels(pixels).mean(1), BLACK)
    return means


def _of_channels(pixels: Float) -> Means:
    """(B, 3, H, W) -> (B, 3): the mean of every channel, summed in float64; NumPy would convert all pixels first."""
    return np.array([[cv2.mean(plane)[0] for plane in image] for image in pixels], dtype=np.float64).reshape(pixels.shape[:2])


@dataclass(frozen=True)
class Exposure:
    """Of the means over all pixels of the normal images.

    Attributes:
        level: their median, about 0 to 1.
        spread: the standard deviation of their logarithm, from the quantiles at 10 and 90 %, which a few odd ones do not move.
    """

    level: float
    spread: float

    def __post_init__(self) -> None:
        require(self.level > 0 and 0 <= self.spread < 100, f"level {self.level} and spread {self.spread} of an exposure")

    @property
    def most(self) -> float:
        """The largest gain; the smallest is its inverse."""
        return float(np.exp(EVENED * self.spread))

    def evened(self, pixels: Float) -> Float:
        """(B, 3, H, W), about 0 to 1 -> the same multiplied by a gain each, which brings its mean to `level` or nearer."""
        gain = np.clip(self.level / levels(pixels), 1 / self.most, self.most).astype(np.float32)
        return np.asarray(pixels * gain[:, None, None, None])


def exposure_of(means: Sequence[Means]) -> Exposure | None:
    """That of normal images from their `levels`, (B,) of each batch; None where there is none."""
    if not means:
        return None
    low, middle, high = np.quantile(np.log(np.concatenate(means)), (0.1, 0.5, 0.9)).tolist()
    return Exposure(float(np.exp(middle)), (high - low) / _FROM_10_TO_90)


def brightness(pixels: Float) -> Float:
    """(B, 3, H, W) -> (B, 3): the logarithm of the mean of every channel."""
    return np.asarray(np.log(np.maximum(_of_channels(pixels), BLACK)), dtype=np.float32)
