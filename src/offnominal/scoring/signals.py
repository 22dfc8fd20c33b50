"""The signals of a patch, and what is usual for them on normal images, place by place.

    distance   mean distance to the nearest K_d bank patches
    influence  length of the influence over K neighbours, 0 to 1
    response   expected change of the distance under the proposed noise
    head       what the trained heads say, 0 where none was kept

They differ in unit, so each is standardised on normal patches that the bank has not seen before they are added.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from offnominal.types import Float, require

SIGNALS = ("distance", "influence", "response", "head")
#: Side of the reference grid on which the usual values are kept; every image's grid is laid over it.
REFERENCE = 32
#: The usual value of a place is trusted as if this many images spoke for the average over all places.
PRIOR_IMAGES = 300.0
#: Places calmer than this share of all places are held against the deviation at that share, and not against their own.
CALM = 0.8
#: Neighbouring places are averaged by a Gaussian of this many reference places.
SMOOTHING = 1.0


@dataclass(frozen=True)
class NormalSignals:
    """Mean and deviation of every signal at every place of normal images: both (R, R, S) float32, deviation > 0.

    An edge or a corner of a part varies more than its middle, and a pattern that is always at the same place varies where it
    ends. Held against what is usual at its own place, neither looks anomalous. Parts that lie anywhere in the image have the
    same values everywhere, and lose nothing. Only the most restless places have a deviation of their own: in a calm one, as an
    empty background, a division by it would make much of little.
    """

    mean: Float
    deviation: Float

    def __post_init__(self) -> None:
        require(self.mean.shape == (REFERENCE, REFERENCE, len(SIGNALS)), f"mean has the shape {self.mean.shape}")
        require(self.deviation.shape == self.mean.shape, f"deviation has the shape {self.deviation.shape}")
        require(bool(np.isfinite(self.mean).all() and (self.deviation > 0).all()), "deviations must be above 0")

    def standardise(self, signals: Float) -> Float:
        """(h, w, S) -> (h, w, S) in standard deviations of normal patches at the same place."""
        grid = signals.shape[:2]
        standard: Float = (signals - over_grid(self.mean, grid)) / over_grid(self.deviation, grid)
        return standard


def over_grid(values: npt.NDArray[Any], grid: tuple[int, int]) -> Float:
    """(h, w, S) values of places laid over another grid: averaged where that is coarser, interpolated where it is finer."""
    if values.shape[:2] == grid:
        return np.asarray(values, dtype=np.float32)
    smaller = min(values.shape[0], grid[0]), min(values.shape[1], grid[1])
    small = cv2.resize(np.asarray(values, dtype=np.float32), smaller[::-1], interpolation=cv2.INTER_AREA)
    large = cv2.resize(small, grid[::-1], interpolation=cv2.INTER_LINEAR)
    placed: Float = large.reshape(*grid, values.shape[2])
    return placed


class NormalSignalsBuilder:
    """Collects the held-out signals of normal images; can leave one image out of the result again.

    Calibration scores an image against what is usual on the others: `without(signals)` is `all` less that image.
    """

    def __init__(self) -> None:
        shape = (REFERENCE, REFERENCE, len(SIGNALS))
        self._count = 0
        self._sum = np.zeros(shape)
        self._square = np.zeros(shape)
        self._inner = np.zeros(len(SIGNALS))

    def add(self, signals: Float) -> None:
        """Add the (h, w, S) held-out signals of one image."""
        self._change(signals, 1)

    def _change(self, signals: Float, sign: int) -> None:
        placed = over_grid(signals, (REFERENCE, REFERENCE)).astype(np.float64)
        self._count += sign
        self._sum += sign * placed
        self._square += sign * placed**2
        self._inner += sign * signals.astype(np.float64).var(axis=(0, 1))

    def without(self, signals: Float) -> NormalSignals:
        """What is usual on all images added but this one; it must have been added."""
        self._change(signals, -1)
        try:
            return self.build()
        finally:
            self._change(signals, 1)

    def build(self) -> NormalSignals:
        """What is usual on all images added; needs at least one."""
        require(self._count > 0, "no normal image was added")
        trust = self._count / (self._count + PRIOR_IMAGES)
        place_mean = _smooth(self._sum / self._count)
        overall = self._sum.mean(axis=(0, 1)) / self._count
        mean = trust * place_mean + (1 - trust) * overall
        place_variance = _smooth(np.maximum(0, self._square / self._count - 2 * mean * self._sum / self._count + mean**2))
        overall_variance = np.maximum(self._inner / self._count, self._square.mean(axis=(0, 1)) / self._count - overall**2)
        variance = trust * place_variance + (1 - trust) * overall_variance
        floor = np.maximum(1e-4 * overall_variance, 1e-12)
        deviation = np.sqrt(np.maximum(variance, floor))
        deviation = np.maximum(deviation, np.quantile(deviation, CALM, axis=(0, 1)))
        return NormalSignals(mean.astype(np.float32), deviation.astype(np.float32))


def _smooth(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    smoothed = cv2.GaussianBlur(values, (0, 0), SMOOTHING, borderType=cv2.BORDER_REPLICATE)
    placed: npt.NDArray[np.float64] = smoothed.reshape(values.shape)
    return placed
