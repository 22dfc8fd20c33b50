"""Exposure correction, if the lighting of the normal images varies.

Lamp and shutter can make up much of the variation of normal images, which then hides defects. The correction is bounded by what
normal images show, so that a part far beyond them stays darker or brighter.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from offnominal.types import Float, require

#: The darkest mean that differs from black, as a share of the range.
BLACK = 1e-3
#: Standard deviations of normal images that are corrected, at most.
EVENED = 2.0
#: Standard deviations of a normal distribution between its 10 % and 90 % quantiles.
_FROM_10_TO_90 = 2.563
#: Blocks a side in which the brightness of an image is measured, and the fewest images that show whether lighting varies.
BLOCKS, FEWEST = 8, 8

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


def block_levels(pixels: Float) -> Means:
    """(B, 3, H, W), about 0 to 1 -> (B, `BLOCKS` ** 2): the mean of every block of the image, not below `BLACK`."""
    grey = [cv2.resize(image.mean(0), (BLOCKS, BLOCKS), interpolation=cv2.INTER_AREA) for image in pixels]
    return np.maximum(np.array(grey, dtype=np.float64).reshape(len(pixels), -1), BLACK)


def lighting_varies(blocks: Means) -> bool:
    """Whether (n, b) block means of n normal images vary by a common factor more than block by block.

    A change of lamp or shutter multiplies all blocks of an image by the same factor; a change of the part does not. The
    logarithm of each block, less its median over the images, is split into the median over the blocks of an image, the common
    factor, and the rest. Lighting varies if the median absolute deviation of the common factor exceeds that of the rest, the
    median over the blocks.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> part = rng.uniform(0.3, 0.7, (1, 64))
    >>> lighting_varies(part * rng.lognormal(0, 0.2, (40, 1)) * rng.lognormal(0, 0.05, (40, 64)))
    True
    >>> lighting_varies(part * rng.lognormal(0, 0.05, (40, 1)) * rng.lognormal(0, 0.2, (40, 64)))
    False
    """
    if len(blocks) < FEWEST:
        return False
    change = np.log(blocks)
    change = change - np.median(change, axis=0)
    common = np.median(change, axis=1)
    rest = change - common[:, None]
    return bool(_spread(common) > np.median(_spread(rest)))


def _spread(values: Means) -> Means:
    """Median absolute deviation along the first axis."""
    return np.asarray(np.median(np.abs(values - np.median(values, axis=0)), axis=0))


def exposure_of(means: Sequence[Means], blocks: Sequence[Means]) -> Exposure | None:
    """The exposure of normal images, from their `levels` and `block_levels` batch by batch; None if lighting does not vary."""
    if not means or not lighting_varies(np.concatenate(blocks)):
        return None
    low, middle, high = np.quantile(np.log(np.concatenate(means)), (0.1, 0.5, 0.9)).tolist()
    return Exposure(float(np.exp(middle)), (high - low) / _FROM_10_TO_90)


def brightness(pixels: Float) -> Float:
    """(B, 3, H, W) -> (B, 3): the logarithm of the mean of every channel."""
    return np.asarray(np.log(np.maximum(_of_channels(pixels), BLACK)), dtype=np.float32)
