"""Signals -> one anomaly map and one image score."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from offnominal.scoring.signals import SIGNALS, NormalSignals
from offnominal.types import Float, interior, interior_shape, require

#: Network pixels per cell of a working map, the map that is smoothed and judged.
WORKING_STRIDE = 4
#: Leakage is suppressed above `LEVEL` standard deviations, which the most unusual positions of normal parts reach. A position
#: counts as its own peak from `OWN` of the highest value nearby; below, it is lowered by the power `POWER` of the shortfall.
LEVEL, OWN, POWER = 4.0, 0.9, 3


def fuse(standardised: Float, weights: Sequence[float]) -> Float:
    """(h, w, S) standardised signals -> (h, w) weighted mean, in standard deviations; `weights` S numbers, sum > 0."""
    weight = np.asarray(weights, dtype=np.float32)
    require(weight.shape == (len(SIGNALS),) and float(weight.sum()) > 0, f"expected {len(SIGNALS)} weights with a sum above 0")
    fused: Float = standardised @ (weight / weight.sum())
    return fused


def member_map(
    signals: Float,
    normal: NormalSignals,
    weights: Sequence[float],
    network: tuple[int, int],
    sigma: float,
    halo: float,
) -> Float:
    """(h, w, S) raw signals of one member -> its (network / 4) anomaly map.

    The signals are standardised and fused, the result is interpolated and smoothed, and spatial leakage is suppressed.

    Parameters
    ----------
    network
        (height, width) of the image that the network saw.
    sigma
        Standard deviation of the smoothing Gaussian, in network pixels.
    halo
        Radius of the leakage in patch positions; see `suppress_leakage`.
    """
    fused = fuse(normal.standardise(signals), weights)
    size = max(1, network[0] // WORKING_STRIDE), max(1, network[1] // WORKING_STRIDE)
    fine = cv2.resize(fused, size[::-1], interpolation=cv2.INTER_LINEAR)
    if sigma > 0:
        fine = cv2.GaussianBlur(fine, (0, 0), sigma / WORKING_STRIDE, borderType=cv2.BORDER_REFLECT)
    return suppress_leakage(np.asarray(fine, dtype=np.float32), round(halo * network[0] / signals.shape[0] / WORKING_STRIDE))


def average_maps(maps: Sequence[Float]) -> Float:
    """The mean of the members' (h, w) anomaly maps of one image, interpolated to the finest of them."""
    if len(maps) == 1:
        return maps[0]
    finest = max((one.shape for one in maps), key=lambda shape: shape[0] * shape[1])
    fine = [one if one.shape == finest else cv2.resize(one, finest[::-1], interpolation=cv2.INTER_LINEAR) for one in maps]
    return np.asarray(np.mean(fine, axis=0, dtype=np.float32), dtype=np.float32)


def suppress_leakage(values: Float, radius: int) -> Float:
    """(h, w) float32 anomaly map -> the same, lowered where a value leaks from a higher one at most `radius` cells away.

    A feature averages 3 x 3 positions, each of which has a receptive field beyond its cell, so a defect also raises the
    positions around it. With t the highest value within the radius, a value v above `LEVEL` is multiplied by
    `min(1, (v + LEVEL) / (OWN (t + LEVEL))) ** POWER`, and becomes no lower than `LEVEL`. Slow slopes, as in a broad stain,
    normal positions and peaks stay, so the image score does not change. Own formula; `benchmarks/halo.py` measures it.
    """
    if radius < 1 or values.max() <= LEVEL:
        return values
    raised = np.maximum(values, 0) + np.float32(LEVEL)
    highest = cv2.dilate(raised, cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius + 1, 2 * radius + 1)))
    lowered = values * np.minimum(raised / (np.float32(OWN) * highest), 1) ** POWER
    sharper: Float = np.where(values > LEVEL, np.maximum(lowered, np.float32(LEVEL)), values)
    return sharper


def image_score(anomaly_map: Float) -> float:
    """The largest value of an image's working map: one bad position makes a bad part."""
    return float(anomaly_map.max())


def to_grid(values: npt.NDArray[Any], grid: tuple[int, int]) -> npt.NDArray[Any]:
    """(N, S) values of the patches of an image -> (h, w, S) on its grid of positions.

    Only `interior` positions have patches; the others repeat the nearest interior position.
    """
    rows, columns = (
        np.clip(np.arange(side), inside.start, inside.stop - 1) - inside.start
        for inside, side in zip(interior(grid), grid, strict=True)
    )
    placed: npt.NDArray[Any] = values.reshape(*interior_shape(grid), -1).take(rows, axis=0).take(columns, axis=1)
    return placed
