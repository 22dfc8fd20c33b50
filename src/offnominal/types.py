"""Values that travel between rooms. Each refuses a wrong shape where it is made.

Letters: B images, H x W original pixels, h x w grid positions, N patches of an image (at its `interior` positions), D features,
M bank patches, K neighbours.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import numpy.typing as npt

from offnominal.errors import InputError

Depth = Literal["8-bit", "16-bit", "float"]
Resize = Literal["area", "keep", "squash"]
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


def interior(grid: tuple[int, int]) -> tuple[slice, slice]:
    """Rows and columns of a grid (h, w) whose 3x3 neighbourhood lies inside it; a side below three is taken whole."""
    rows, columns = (slice(1, side - 1) if side > 2 else slice(0, side) for side in grid)
    return rows, columns


def interior_shape(grid: tuple[int, int]) -> tuple[int, int]:
    """How many rows and columns are `interior`."""
    height, width = (side - 2 if side > 2 else side for side in grid)
    return height, width


@dataclass(frozen=True)
class Neighbour:
    """A good patch near the peak of a region.

    Attributes:
        image: name of the training image that it comes from.
        box: `(left, top, right, bottom)` in pixels of that original image, right and bottom exclusive, as `Region.box`.
        distance: Euclidean distance of the standardised features.
        distance_in_sd: `(distance - mean) / deviation`, both of held-out normal patches.
    """

    image: str
    box: tuple[int, int, int, int]
    distance: float
    distance_in_sd: float


@dataclass(frozen=True)
class Evidence:
    """What stands behind a region, at the patch of its peak; how each number is made: `offnominal.inference.evidence`.

    Attributes:
        member: the member of the model whose map is highest at the peak; everything below is of this member.
        box: the patch of the peak, `(left, top, right, bottom)` in pixels of the inspected image, as `Region.box`.
        nearest: the good patches nearest to it, nearest first.
        layer_shares: share of each layer of the backbone in the squared distance to the nearest; they sum to 1.
        channel_shares: `(channel, share)` of the leading channels in the same, largest first. Both are empty where that
            distance is 0: there is nothing to share.
        influence: `(channel, signed value)` of the channels whose influence is the largest by absolute value, largest first.
        noise_std: root mean square over features of the proposed noise's standard deviation.
        response: expected change of the mean distance under that noise.
        p_value: share of calibration images (this one counted in) that score at least as high as the region's peak.
        curve: `(t, distance)`: the mean distance as the noise grows along the influence; t = 0 is the patch as it is, t < 0
            goes against the influence, towards normal.
        usual_box: the usual patch of the same image, the one of median distance, which the curve is held against.
        usual_curve: its curve, with its own influence and noise.
    """

    member: str
    box: tuple[int, int, int, int]
    nearest: tuple[Neighbour, ...]
    layer_shares: dict[str, float]
    channel_shares: tuple[tuple[int, float], ...]
    influence: tuple[tuple[int, float], ...]
    noise_std: float
    response: float
    p_value: float
    curve: tuple[tuple[float, float], ...]
    usual_box: tuple[int, int, int, int] | None = None
    usual_curve: tuple[tuple[float, float], ...] = ()


@dataclass(frozen=True)
class Region:
    """One connected place of an image whose anomaly map lies above the threshold.

    `box` is `(left, top, right, bottom)` in pixels of the original image, right and bottom exclusive; `area` is in the same
    pixels; both are counted on the map in network pixels, so a mask drawn in original pixels may differ from them at its rim;
    `peak` is the largest map value in it and `peak_at` its `(x, y)`. `p_value` is the share of calibration images (this one
    counted in) whose whole map reaches the peak; `evidence` is None unless it was asked for.
    """

    box: tuple[int, int, int, int]
    area: int
    peak: float
    peak_at: tuple[int, int]
    p_value: float
    evidence: Evidence | None = None


@dataclass(frozen=True)
class Inspection:
    """What was found in one image. Higher scores are more anomalous; raw scores are neither clamped nor rescaled.

    Attributes:
        path: where the image came from (None for arrays).
        score: the largest value of the smoothed anomaly map, in standard deviations of held-out normal patches.
        p_value: share of calibration images (this one counted in) that score at least as high, in (0, 1].
        anomalous: `score > threshold`.
        threshold: the calibrated level that `score` is held against.
        anomaly_map: (H, W) float32, in pixels of the original image: interpolated there, so its largest value may lie a few
            percent below `score`.
        influence_map: (H, W) float32 in [0, 1], the length of the influence, averaged over the members: near 1 outside the
            cloud of neighbours.
        regions: places above the threshold, highest peak first; empty exactly when not anomalous.
        noise_map: (H, W) float32, root mean square over features of the proposed noise; None unless maps were asked for.
        layer_maps: (H, W) float32 each: the share of a layer in the squared distance to the nearest good patch, 0 to 1; over
            the layers of all members they sum to 1, or to less where that distance is 0. None unless maps were asked for.
        appearance: (S,) float32 statistics of the image as a whole, which a stream is watched by; empty if it is not.
        whole_p_value: how usual the image is as a whole, wherever its map is high: the share of good images (this one counted
            in) that are no more like the others than it is, in (0, 1]; None with fewer than eight images to fit on.
    """

    path: str | None
    score: float
    p_value: float
    anomalous: bool
    threshold: float
    anomaly_map: Float
    influence_map: Float
    regions: tuple[Region, ...]
    noise_map: Float | None = None
    layer_maps: dict[str, Float] | None = None
    appearance: Float = field(default_factory=lambda: np.empty(0, np.float32))
    whole_p_value: float | None = None

    def __post_init__(self) -> None:
        require(self.anomaly_map.ndim == 2, f"anomaly_map must be (H, W), got {self.anomaly_map.shape}")
        require(self.influence_map.shape == self.anomaly_map.shape, "influence_map and anomaly_map differ in shape")
        require(bool(np.isfinite(self.score)), f"score must be a number, got {self.score}")
        require(0 < self.p_value <= 1, f"p_value must lie in (0, 1], got {self.p_value}")
        require(bool(self.regions) == self.anomalous, "an anomalous image has regions, a good one has none")

    def evidence(self, region: Region) -> Evidence:
        """What stands behind one of `regions`.

        Raises:
            InputError: the region is not of this inspection, or the inspection was made without `evidence=True`.
        """
        if region not in self.regions:
            raise InputError("this region is not one of the inspection's regions: give one of them")
        if region.evidence is None:
            raise InputError("this inspection was made without evidence: call inspect with evidence=True")
        return region.evidence
