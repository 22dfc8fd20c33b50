"""Signals -> one anomaly map and one image score."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from offnominal.scoring.signals import SIGNALS, NormalSignals, over_grid
from offnominal.types import Float, require, whole, whole_grid

#: Network pixels per place of the working map, on which is smoothed and decided.
WORKING_STRIDE = 4
#: Weak evidence around a place: values up to this many standard deviations, averaged by a Gaussian of so many network pixels.
WEAK, AROUND = 1.0, 16.0
#: What the oddest places of good parts come to, in standard deviations: a halo is lowered to no less. The share of the highest
#: value beside a place that counts as its own, and the power of what it lacks of that.
LEVEL, OWN, POWER = 4.0, 0.9, 3


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
    halo: float,
) -> Float:
    """(h, w, S) raw signals -> (network / 4) anomaly map: standardised, fused, interpolated, smoothed, seen in their context,
    without halo.

    A broad stain is little off at every place, but at many beside each other: `context` times the mean around a place is
    added to it. Values count there up to `WEAK`, so that a small bright defect does not spread over what surrounds it, and
    what lies outside the image counts as usual, so that nothing is its own witness by a mirror at the edge.
    `sigma` is the Gaussian's that smooths, in network pixels.

    `halo` is how many places around a defect it shows in their patches as well (`without_halo`).
    """
    fused = fuse(normal.standardise(signals), weights)
    size = max(1, network[0] // WORKING_STRIDE), max(1, network[1] // WORKING_STRIDE)
    fine = _smoothed(cv2.resize(fused, size[::-1], interpolation=cv2.INTER_LINEAR), sigma)
    if context > 0:
        fine = fine + context * _smoothed(np.minimum(fine, WEAK), AROUND, cv2.BORDER_CONSTANT)
    return without_halo(np.asarray(fine, dtype=np.float32), round(halo * network[0] / signals.shape[0] / WORKING_STRIDE))


def without_halo(values: Float, radius: int) -> Float:
    """(h, w) float32 anomaly map -> the same, lower where a place owes its value to a higher one at most `radius` beside it.

    A feature is a mean over 3 x 3 places, each of which sees farther than itself, so a defect also shows beside itself, the
    less the farther. With t the highest value within the radius, a value v above `LEVEL` is multiplied by
    `min(1, (v + LEVEL) / (OWN (t + LEVEL))) ** POWER`, and becomes no lower than `LEVEL`: what falls off slowly, as in a broad
    stain, stays, and so do good places and every highest value, the image's score among them. Own formula;
    `benchmarks/halo.py` shows what it changes.
    """
    if radius < 1 or values.max() <= LEVEL:
        return values
    raised = np.maximum(values, 0) + np.float32(LEVEL)
    highest = cv2.dilate(raised, cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius + 1, 2 * radius + 1)))
    lowered = values * np.minimum(raised / (np.float32(OWN) * highest), 1) ** POWER
    sharper: Float = np.where(values > LEVEL, np.maximum(lowered, np.float32(LEVEL)), values)
    return sharper


def image_score(anomaly_map: Float) -> float:
    """The score of an image is the largest value of its working map: one bad place makes a bad part."""
    return float(anomaly_map.max())


def grid_of(signals: Float, grids: Sequence[tuple[int, int]]) -> Float:
    """(N, S) signals of all segments of an image -> (h, w, S) on the first grid; several segments are averaged."""
    placed = [over_grid(part, grids[0]) for part in on_grids(signals, grids)]
    return placed[0] if len(placed) == 1 else np.mean(placed, axis=0, dtype=np.float32)


def on_grids(values: npt.NDArray[Any], grids: Sequence[tuple[int, int]]) -> list[npt.NDArray[Any]]:
    """(N, S) of all segments of an image -> (h, w, S) each.

    Only the places that are `whole` have patches; one that is not has the values of the nearest that is.
    """
    found = []
    ends = np.cumsum([height * width for height, width in map(whole_grid, grids)])
    for part, grid in zip(np.split(values, ends[:-1]), grids, strict=True):
        rows, columns = (
            np.clip(np.arange(side), inside.start, inside.stop - 1) - inside.start
            for inside, side in zip(whole(grid), grid, strict=True)
        )
        found.append(part.reshape(*whole_grid(grid), -1).take(rows, axis=0).take(columns, axis=1))
    return found


def _smoothed(values: Float, sigma: float, outside: int = cv2.BORDER_REFLECT) -> Float:
    """(h, w) working map averaged by a Gaussian of `sigma` network pixels; 0 leaves it as it is.

    `outside` is the border as OpenCV names it: a mirror, or 0 with `BORDER_CONSTANT`.
    """
    if sigma <= 0:
        return values
    smooth: Float = cv2.GaussianBlur(values, (0, 0), sigma / WORKING_STRIDE, borderType=outside)
    return smooth
