"""Signals -> one anomaly map and one image score."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from offnominal.scoring.signals import SIGNALS, NormalSignals, over_grid
from offnominal.types import Float, require

#: Network pixels per place of the working map, on which is smoothed and decided.
WORKING_STRIDE = 4
#: Weak evidence around a place: values up to this many standard deviations, averaged by a Gaussian of so many network pixels.
WEAK, AROUND = 1.0, 16.0


def fuse(standardised: Float, weights: Sequence[float]) -> Float:
    """(h, w, S) standardised signals -> (h, w) weighted mean, in standard deviations; `weights` S numbers, sum > 0."""
    weight = np.asarray(weights, dtype=np.float32)
    require(weight.shape == (len(SIGNALS),) and float(weight.sum()) > 0, f"expected {len(SIGNALS)} weights with a sum above 0")
    fused: Float = standardised @ (weight / weight.sum())
    return fused


def working_map(
    signals: Float,
    normal: NormalSignals,
    weights: Sequence[float],
    network: tuple[int, int],
    sigma: float,
    context: float,
) -> Float:
    """(h, w, S) raw signals -> (network / 4) anomaly map: standardised, fused, interpolated, smoothed, seen in their context.

    A broad stain is little off at every place, but at many beside each other: `context` times the mean around a place is
    added to it. Values count there up to `WEAK`, so that a small bright defect does not spread over what surrounds it.
    `sigma` is the Gaussian's that smooths, in network pixels.
    """
    fused = fuse(normal.standardise(signals), weights)
    size = max(1, network[0] // WORKING_STRIDE), max(1, network[1] // WORKING_STRIDE)
    fine = _smoothed(cv2.resize(fused, size[::-1], interpolation=cv2.INTER_LINEAR), sigma)
    if context > 0:
        fine = fine + context * _smoothed(np.minimum(fine, WEAK), AROUND)
    return np.asarray(fine, dtype=np.float32)


def image_score(anomaly_map: Float) -> float:
    """The score of an image is the largest value of its working map: one bad place makes a bad part."""
    return float(anomaly_map.max())


def grid_of(signals: Float, grids: Sequence[tuple[int, int]]) -> Float:
    """(N, S) signals of all segments of an image -> (h, w, S) on the first grid; several segments are averaged."""
    ends = np.cumsum([height * width for height, width in grids])
    parts = np.split(signals, ends[:-1])
    placed = [over_grid(part.reshape(*grid, -1), grids[0]) for part, grid in zip(parts, grids, strict=True)]
    return placed[0] if len(placed) == 1 else np.mean(placed, axis=0, dtype=np.float32)


def _smoothed(values: Float, sigma: float) -> Float:
    """(h, w) working map averaged by a Gaussian of `sigma` network pixels; 0 leaves it as it is."""
    if sigma <= 0:
        return values
    smooth: Float = cv2.GaussianBlur(values, (0, 0), sigma / WORKING_STRIDE, borderType=cv2.BORDER_REFLECT)
    return smooth
