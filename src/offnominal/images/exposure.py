"""Exposure correction, if the lighting of the normal images varies.

Lamp and shutter can cause much of the variation of normal images, and this variation hides defects. The correction is limited
to the variation of normal images, so that a part far outside it stays darker or brighter.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from offnominal.types import Float, require

#: Lower limit of a mean, as a share of the range: keeps logarithms and gains of black images finite.
BLACK = 1e-3
#: The correction covers so many standard deviations of the normal images to either side.
CORRECTED = 2.0
#: Standard deviations of a normal distribution between its 10 % and 90 % quantiles.
_FROM_10_TO_90 = 2.563
#: The brightness of an image is measured in this many blocks per side.
BLOCKS = 8
#: With fewer images, whether lighting varies cannot be estimated.
FEWEST = 8

Means = npt.NDArray[np.float64]


def levels(pixels: Float) -> Means:
    """Compute the mean of every image over channels and pixels, at least `BLACK`.

    Parameters
    ----------
    pixels
        (B, 3, H, W), about 0 to 1.

    Returns
    -------
    ndarray of float64
        (B,).

    Examples
    --------
    >>> levels(np.full((2, 3, 4, 4), 0.25, np.float32)).tolist()
    [0.25, 0.25]
    """
    means: Means = np.maximum(_channel_means(pixels).mean(1), BLACK)
    return means


def _channel_means(pixels: Float) -> Means:
    """(B, 3, H, W) -> (B, 3): the mean of every channel, summed in float64. NumPy would first convert all pixels."""
    return np.array([[cv2.mean(plane)[0] for plane in image] for image in pixels], dtype=np.float64).reshape(pixels.shape[:2])


@dataclass(frozen=True)
class Exposure:
    """Distribution of the brightness of normal images, and the correction toward it.

    Attributes
    ----------
    level
        Median of the mean brightness of the images, about 0 to 1.
    spread
        Standard deviation of its natural logarithm, estimated from the 10 % and 90 % quantiles, which are robust to a few
        outliers.

    Examples
    --------
    >>> exposure = Exposure(level=0.5, spread=0.1)
    >>> round(exposure.max_gain, 2)
    1.22
    >>> dark = np.full((1, 3, 4, 4), 0.45, np.float32)
    >>> round(float(exposure.corrected(dark).mean()), 2)
    0.5
    """

    level: float
    spread: float

    def __post_init__(self) -> None:
        require(
            self.level > 0 and 0 <= self.spread < 100,
            f"expected level > 0 and 0 <= spread < 100 of an exposure, got {self.level} and {self.spread}",
        )

    @property
    def max_gain(self) -> float:
        """The largest gain; the smallest is its inverse."""
        return float(np.exp(CORRECTED * self.spread))

    def corrected(self, pixels: Float) -> Float:
        """Scale each image so that its mean moves to `level`, as far as the gain is allowed.

        Parameters
        ----------
        pixels
            (B, 3, H, W) float32, about 0 to 1.

        Returns
        -------
        ndarray of float32
            (B, 3, H, W).
        """
        return np.asarray(pixels * self.gains(pixels)[:, None, None, None])

    def gains(self, pixels: Float) -> Float:
        """(B,) gains of the correction of (B, 3, H, W) images."""
        gains: Float = np.clip(self.level / levels(pixels), 1 / self.max_gain, self.max_gain).astype(np.float32)
        return gains


def block_levels(pixels: Float) -> Means:
    """Compute the mean of each of `BLOCKS` x `BLOCKS` blocks of every image, at least `BLACK`.

    Parameters
    ----------
    pixels
        (B, 3, H, W), about 0 to 1.

    Returns
    -------
    ndarray of float64
        (B, 64).

    Examples
    --------
    >>> block_levels(np.full((2, 3, 16, 16), 0.25, np.float32)).shape
    (2, 64)
    """
    grey = [cv2.resize(image.mean(0), (BLOCKS, BLOCKS), interpolation=cv2.INTER_AREA) for image in pixels]
    return np.maximum(np.array(grey, dtype=np.float64).reshape(len(pixels), -1), BLACK)


def lighting_varies(blocks: Means) -> bool:
    """Decide whether the brightness of normal images varies more by a common factor than block by block.

    A change of lamp or shutter multiplies all blocks of an image by the same factor; a change of the part does not. The
    logarithm of each block, less its median over the images, is split into its median over the blocks of an image (the common
    factor) and the rest. Lighting varies if the median absolute deviation of the common factor exceeds the median over the
    blocks of the median absolute deviation of the rest.

    Parameters
    ----------
    blocks
        (n, b) block means of n normal images, above 0.

    Returns
    -------
    bool
        False for fewer than `FEWEST` images.

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
    """Estimate the exposure of normal images; None if their lighting does not vary.

    Parameters
    ----------
    means
        `levels` of the images, one array per batch.
    blocks
        `block_levels` of the images, one array per batch.

    Examples
    --------
    >>> lamp = np.linspace(0.4, 0.6, 9)
    >>> exposure = exposure_of([lamp], [lamp[:, None] * np.ones(64)])
    >>> round(exposure.level, 3), round(exposure.spread, 3)
    (0.5, 0.126)
    >>> exposure_of([np.full(9, 0.5)], [np.full((9, 64), 0.5)]) is None
    True
    """
    if not means or not lighting_varies(np.concatenate(blocks)):
        return None
    low, middle, high = np.quantile(np.log(np.concatenate(means)), (0.1, 0.5, 0.9)).tolist()
    return Exposure(float(np.exp(middle)), (high - low) / _FROM_10_TO_90)


def brightness(pixels: Float) -> Float:
    """Compute the natural logarithm of the mean of every channel, at least that of `BLACK`.

    Parameters
    ----------
    pixels
        (B, 3, H, W), about 0 to 1.

    Returns
    -------
    ndarray of float32
        (B, 3).

    Examples
    --------
    >>> brightness(np.ones((1, 3, 4, 4), np.float32)).tolist()
    [[0.0, 0.0, 0.0]]
    """
    return np.asarray(np.log(np.maximum(_channel_means(pixels), BLACK)), dtype=np.float32)
