"""The signals of a patch, and their statistics on normal images.

    distance   mean distance to the nearest K_d bank patches
    influence  length of the influence over K neighbours, 0 to 1
    response   expected change of the distance under the proposed noise

They differ in unit, so each is standardised on normal patches that the bank does not hold before they are fused.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from offnominal.types import Float, require

SIGNALS = ("distance", "influence", "response")


@dataclass(frozen=True)
class NormalSignals:
    """Mean and standard deviation of every signal on held-out normal patches: both (S,) float32, deviation > 0.

    They are pooled over all patch positions: statistics of each position measured worse on sets that they were not chosen on
    (`docs/decisions/position-statistics.md`).
    """

    mean: Float
    deviation: Float

    def __post_init__(self) -> None:
        require(self.mean.shape == (len(SIGNALS),), f"mean has the shape {self.mean.shape}")
        require(self.deviation.shape == self.mean.shape, f"deviation has the shape {self.deviation.shape}")
        require(bool(np.isfinite(self.mean).all() and (self.deviation > 0).all()), "deviations must be above 0")

    def standardise(self, signals: Float) -> Float:
        """(..., S) -> (..., S) in standard deviations of normal patches."""
        standard: Float = (signals - self.mean) / self.deviation
        return standard


class NormalSignalsBuilder:
    """Collects the held-out signals of normal images. Some images can be left out of the result again.

    Calibration scores an image against the statistics of the others, `without` it and those held out with it.
    """

    def __init__(self) -> None:
        self._count = 0
        self._sum = np.zeros(len(SIGNALS))
        self._square = np.zeros(len(SIGNALS))

    def add(self, signals: Float) -> None:
        """Add the (h, w, S) held-out signals of one image; every image counts the same, whatever its size."""
        self._change(signals, 1)

    def _change(self, signals: Float, sign: int) -> None:
        values = signals.astype(np.float64)
        self._count += sign
        self._sum += sign * values.mean(axis=(0, 1))
        self._square += sign * (values**2).mean(axis=(0, 1))

    def without(self, *images: Float) -> NormalSignals:
        """The statistics of all images added except these."""
        for signals in images:
            self._change(signals, -1)
        try:
            return self.build()
        finally:
            for signals in images:
                self._change(signals, 1)

    def build(self) -> NormalSignals:
        """The statistics of all images added, at least one."""
        require(self._count > 0, "no normal image was added")
        mean = self._sum / self._count
        variance = np.maximum(self._square / self._count - mean**2, 0)
        # A signal that never varies is left in its own unit.
        deviation = np.where(variance > 1e-12 * np.maximum(mean**2, 1e-6), np.sqrt(variance), 1.0)
        return NormalSignals(mean.astype(np.float32), deviation.astype(np.float32))
