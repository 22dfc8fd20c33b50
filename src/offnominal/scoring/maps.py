"""From patch signals to the anomaly map; `offnominal.gates` has the image score."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from offnominal.gates import LEAKAGE_LEVEL
from offnominal.scoring.signals import SIGNALS, NormalSignals
from offnominal.types import Float, require

#: Network pixels per cell of a working map, the map that is smoothed and thresholded.
WORKING_STRIDE = 4
#: Share of the highest value nearby from which a position counts as a peak of its own.
LEAKAGE_PEAK_SHARE = 0.9
#: Exponent of the suppression below that share.
LEAKAGE_POWER = 3


def fuse(standardised: Float, weights: Sequence[float]) -> Float:
    """Weighted mean of standardised signals.

    Parameters
    ----------
    standardised
        (h, w, S) signals in standard deviations.
    weights
        S weights with a positive sum.

    Returns
    -------
    array
        (h, w) float32 in standard deviations; higher is more anomalous.

    Examples
    --------
    >>> fuse(np.array([[[4.0, 2.0, 0.0]]], np.float32), (1, 1, 0))
    array([[3.]], dtype=float32)
    """
    weight = np.asarray(weights, dtype=np.float32)
    require(weight.shape == (len(SIGNALS),) and float(weight.sum()) > 0, f"expected {len(SIGNALS)} weights with a sum above 0")
    fused: Float = standardised @ (weight / weight.sum())
    return fused


def working_size(networks: Sequence[tuple[int, int]]) -> tuple[int, int]:
    """(h, w) of the anomaly map of an image, from the (height, width) of the network input of each member.

    Examples
    --------
    >>> working_size([(256, 256), (384, 384)])
    (96, 96)
    """
    sizes = [(max(1, height // WORKING_STRIDE), max(1, width // WORKING_STRIDE)) for height, width in networks]
    return max(sizes, key=lambda size: size[0] * size[1])


def member_map(
    signals: Float,
    normal: NormalSignals,
    *,
    weights: Sequence[float],
    network: tuple[int, int],
    sigma: float,
    halo: float,
) -> Float:
    """Anomaly map of one member: standardise, fuse, interpolate, smooth, and suppress spatial leakage.

    Parameters
    ----------
    signals
        (h, w, S) raw signals.
    normal
        Statistics of the signals on normal patches.
    weights
        S weights of the signals.
    network
        (height, width) of the network input.
    sigma
        Standard deviation of the smoothing Gaussian, in network pixels.
    halo
        Radius of the leakage in patch positions; see `suppress_leakage`.

    Returns
    -------
    array
        (height / 4, width / 4) float32 in standard deviations; higher is more anomalous.

    Examples
    --------
    >>> normal = NormalSignals(mean=np.ones(3, np.float32), deviation=np.full(3, 0.5, np.float32))
    >>> member_map(np.full((8, 8, 3), 2.0, np.float32), normal, weights=(1, 0, 0), network=(64, 64), sigma=4, halo=2).shape
    (16, 16)
    """
    fused = fuse(normal.standardise(signals), weights)
    size = working_size([network])
    fine = cv2.resize(fused, size[::-1], interpolation=cv2.INTER_LINEAR)
    if sigma > 0:
        fine = cv2.GaussianBlur(fine, (0, 0), sigma / WORKING_STRIDE, borderType=cv2.BORDER_REFLECT)
    return suppress_leakage(np.asarray(fine, dtype=np.float32), round(halo * network[0] / signals.shape[0] / WORKING_STRIDE))


def average_maps(maps: Sequence[Float]) -> Float:
    """Mean of the members' (h, w) anomaly maps of one image, at the resolution of the finest.

    Examples
    --------
    >>> average_maps([np.zeros((1, 1), np.float32), np.full((2, 2), 3.0, np.float32)])
    array([[1.5, 1.5],
           [1.5, 1.5]], dtype=float32)
    """
    if len(maps) == 1:
        return maps[0]
    finest = max((values.shape for values in maps), key=lambda shape: shape[0] * shape[1])
    resized = [
        values if values.shape == finest else cv2.resize(values, finest[::-1], interpolation=cv2.INTER_LINEAR)
        for values in maps
    ]
    return np.asarray(np.mean(resized, axis=0, dtype=np.float32), dtype=np.float32)


def suppress_leakage(values: Float, radius: int) -> Float:
    """Suppress spatial leakage: lower values that a higher value nearby explains.

    A patch feature averages 3 x 3 positions, and the receptive field of each exceeds its cell. A defect therefore raises the
    positions around it as well. With L = `LEAKAGE_LEVEL` and t the highest value within `radius`, a value v above L is
    multiplied by `min(1, (v + L) / (LEAKAGE_PEAK_SHARE (t + L))) ** LEAKAGE_POWER`, but not lowered below L. Peaks, normal
    positions and gentle slopes such as stains stay, so the image score does not change. The formula is specific to this
    project; `docs/decisions/spatial-leakage.md` says why.

    Parameters
    ----------
    values
        (h, w) float32 anomaly map in standard deviations.
    radius
        Radius of the leakage in cells of the map; below 1 the map is returned as is.

    Returns
    -------
    array
        (h, w) float32.

    Examples
    --------
    >>> suppress_leakage(np.array([[1.0, 8.0, 20.0, 8.0, 1.0]], np.float32), radius=1).round(1)
    array([[ 1.,  4., 20.,  4.,  1.]], dtype=float32)
    """
    if radius < 1 or values.max() <= LEAKAGE_LEVEL:
        return values
    raised = np.maximum(values, 0) + np.float32(LEAKAGE_LEVEL)
    highest = cv2.dilate(raised, cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius + 1, 2 * radius + 1)))
    lowered = values * np.minimum(raised / (np.float32(LEAKAGE_PEAK_SHARE) * highest), 1) ** LEAKAGE_POWER
    suppressed: Float = np.where(values > LEAKAGE_LEVEL, np.maximum(lowered, np.float32(LEAKAGE_LEVEL)), values)
    return suppressed
