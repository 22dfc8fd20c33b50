"""Values that travel between rooms. Each refuses a wrong shape where it is made.

Letters: B images, H x W original pixels, h x w grid places, N = h * w patches of an image, D features, M bank patches,
K neighbours.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import numpy.typing as npt

Depth = Literal["8-bit", "16-bit", "float"]
Float = npt.NDArray[np.float32]
Index = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]

#: `progress(stage, done, total)`, called as work goes on.
Progress = Callable[[str, int, int], None]


def silent(stage: str, done: int, total: int) -> None:
    """The progress that says nothing."""


def require(condition: bool, message: str) -> None:
    """Raise `ValueError(message)` unless `condition`."""
    if not condition:
        raise ValueError(message)


@dataclass(frozen=True)
class Region:
    """One connected place of an image whose anomaly map lies above the threshold.

    `box` is `(left, top, right, bottom)` in pixels of the original image, right and bottom exclusive; `area` is in the same
    pixels; `peak` is the largest map value in it and `peak_at` its `(x, y)`. `p_value` is the share of calibration images (this
    one counted in) whose whole map reaches the peak.
    """

    box: tuple[int, int, int, int]
    area: int
    peak: float
    peak_at: tuple[int, int]
    p_value: float


@dataclass(frozen=True)
class Inspection:
    """What was found in one image. Higher scores are more anomalous; raw scores are neither clamped nor rescaled.

    Attributes:
        path: where the image came from (None for arrays).
        score: the largest value of the smoothed anomaly map, in standard deviations of held-out normal patches.
        p_value: share of calibration images (this one counted in) that score at least as high, in (0, 1].
        anomalous: `score > threshold`.
        threshold: the calibrated level that `score` is held against.
        anomaly_map: (H, W) float32, in pixels of the original image.
        influence_map: (H, W) float32 in [0, 1], the length of the influence: near 1 outside the cloud of neighbours.
        regions: places above the threshold, highest peak first; empty exactly when not anomalous.
        appearance: (S,) float32 statistics of the image as a whole, which a stream is watched by; empty if it is not.
    """

    path: str | None
    score: float
    p_value: float
    anomalous: bool
    threshold: float
    anomaly_map: Float
    influence_map: Float
    regions: tuple[Region, ...]
    appearance: Float = field(default_factory=lambda: np.empty(0, np.float32))

    def __post_init__(self) -> None:
        require(self.anomaly_map.ndim == 2, f"anomaly_map must be (H, W), got {self.anomaly_map.shape}")
        require(self.influence_map.shape == self.anomaly_map.shape, "influence_map and anomaly_map differ in shape")
        require(0 < self.p_value <= 1, f"p_value must lie in (0, 1], got {self.p_value}")
        require(bool(self.regions) == self.anomalous, "an anomalous image has regions, a good one has none")
