"""The extent of regions: where a region ends around a high peak."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from offnominal.types import Float

#: Higher values leak into their surroundings. In standard deviations; normal images reach it at their most unusual positions.
LEAKAGE_LEVEL = 4.0
#: A defect raises the map up to this number of patches around it.
REACH = 6
#: A region ends at this share of the highest value nearby: its size is the full width at half maximum.
EXTENT_SHARE = 0.5


def reach_of(shape: tuple[int, int], grids: Sequence[tuple[int, ...]]) -> int:
    """How far a defect raises an (h, w) map around it, in cells, for the patch grids of the members.

    Examples
    --------
    >>> reach_of((64, 64), [(32, 32)]), reach_of((96, 96), [(32, 32), (48, 48)])
    (12, 18)
    """
    return round(max(REACH * shape[0] / grid[0] for grid in grids))


def extents(scores: Float, reach: int) -> Float:
    """The map in which regions are measured.

    The features of a patch cover more than the patch, so a small, strong defect raises the map far around it. Its region
    therefore ends where the map falls below half of the highest value nearby, the usual width of a blurred peak. Peaks stay.

    Parameters
    ----------
    scores
        (h, w) float32 anomaly map in standard deviations.
    reach
        Radius of a neighbourhood in cells, from `reach_of`.

    Returns
    -------
    array
        (h, w) float32. If the highest value nearby exceeds `LEAKAGE_LEVEL`, values below half of it are replaced by the lowest
        of the map.

    Examples
    --------
    >>> extents(np.array([[1.0, 5.0, 20.0, 11.0, 3.0, 1.0]], np.float32), reach=2)
    array([[ 1.,  1., 20., 11.,  1.,  1.]], dtype=float32)
    """
    import cv2

    if scores.max() <= LEAKAGE_LEVEL:
        return scores
    highest = cv2.dilate(scores, np.ones((2 * reach + 1, 2 * reach + 1), np.uint8))
    outside = (highest > LEAKAGE_LEVEL) & (scores < np.float32(EXTENT_SHARE) * highest)
    measured: Float = np.where(outside, scores.min(), scores)
    return measured
