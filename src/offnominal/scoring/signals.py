"""Signals of a patch, and their normal statistics.

    distance   mean distance to the K_d nearest bank patches
    influence  length of the influence over K neighbours, in [0, 1]
    response   expected change of the distance under the proposed noise

The signals have different units, so each is standardised on held-out normal patches before fusion.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from offnominal.roi import RegionOfInterest
from offnominal.types import Float, require

SIGNALS = ("distance", "influence", "response")
#: Columns of the signals.
DISTANCE, INFLUENCE, RESPONSE = range(len(SIGNALS))


@dataclass(frozen=True)
class NormalSignals:
    """Mean and standard deviation of each signal on held-out normal patches.

    They are pooled over all patch positions. Statistics per position gave worse results on data sets they were not tuned on
    (`docs/decisions/position-statistics.md`).

    Attributes
    ----------
    mean
        (S,) float32.
    deviation
        (S,) float32, above 0.

    Examples
    --------
    >>> normal = NormalSignals(np.array([2, 0.5, 0], np.float32), np.array([0.5, 0.25, 1], np.float32))
    >>> normal.standardise(np.array([3, 0.5, 1], np.float32))
    array([2., 0., 1.], dtype=float32)
    """

    mean: Float
    deviation: Float

    def __post_init__(self) -> None:
        require(self.mean.shape == (len(SIGNALS),), f"mean must be ({len(SIGNALS)},), got {self.mean.shape}")
        require(self.deviation.shape == self.mean.shape, f"deviation must be {self.mean.shape}, got {self.deviation.shape}")
        valid = np.isfinite(self.mean).all() and (self.deviation > 0).all()
        require(bool(valid), "means must be finite and deviations above 0")

    def standardise(self, signals: Float) -> Float:
        """Convert (..., S) raw signals to standard deviations of normal patches."""
        standard: Float = (signals - self.mean) / self.deviation
        return standard


class NormalSignalsBuilder:
    """Accumulates `NormalSignals` over images; single images can be excluded afterwards. Only the region of interest counts.

    Calibration scores each image with the statistics `without` it and the images held out with it.

    Examples
    --------
    >>> first, second = np.full((2, 2, 3), 1.0, np.float32), np.full((2, 2, 3), 3.0, np.float32)
    >>> builder = NormalSignalsBuilder()
    >>> builder.add(first)
    >>> builder.add(second)
    >>> builder.build().mean, builder.without(second).mean
    (array([2., 2., 2.], dtype=float32), array([1., 1., 1.], dtype=float32))
    """

    def __init__(self, region: RegionOfInterest | None = None) -> None:
        self._region = None if region is None or region.whole else region
        self._count = 0
        self._sum = np.zeros(len(SIGNALS))
        self._square = np.zeros(len(SIGNALS))

    def add(self, signals: Float) -> None:
        """Add the (h, w, S) held-out signals of one image. All images have the same weight, whatever their size."""
        self._accumulate(signals, 1)

    def _accumulate(self, signals: Float, sign: int) -> None:
        values = signals.astype(np.float64)
        axes: tuple[int, ...] = (0, 1)
        if self._region is not None:
            inside = self._region.at((values.shape[0], values.shape[1]))
            values, axes = values[inside], (0,)
        self._count += sign
        self._sum = self._sum + sign * values.mean(axis=axes)
        self._square = self._square + sign * (values**2).mean(axis=axes)

    def merge(self, other: NormalSignalsBuilder) -> None:
        """Add the images of another builder."""
        self._count += other._count
        self._sum = self._sum + other._sum
        self._square = self._square + other._square

    def without(self, *images: Float) -> NormalSignals:
        """Statistics of all added images except these."""
        for signals in images:
            self._accumulate(signals, -1)
        try:
            return self.build()
        finally:
            for signals in images:
                self._accumulate(signals, 1)

    def build(self) -> NormalSignals:
        """Statistics of all added images; raises `ValueError` if there are none."""
        require(self._count > 0, "no normal image was added")
        mean = self._sum / self._count
        variance = np.maximum(self._square / self._count - mean**2, 0)
        # Do not scale a constant signal.
        deviation = np.where(variance > 1e-12 * np.maximum(mean**2, 1e-6), np.sqrt(variance), 1.0)
        return NormalSignals(mean.astype(np.float32), deviation.astype(np.float32))
