"""Area, length and width of a region."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from offnominal.types import Mask, require

#: (n, 2) coordinates (x, y).
Points = npt.NDArray[Any]


def outline(mask: Mask) -> Points:
    """(n, 2) corners (x, y) of the first and the last cell of each row of an (h, w) mask: they span its convex hull.

    Examples
    --------
    >>> outline(np.array([[False, True]])).tolist()
    [[1, 0], [1, 1], [2, 0], [2, 1]]
    """
    rows = np.flatnonzero(mask.any(axis=1))
    first = mask[rows].argmax(axis=1)
    last = mask.shape[1] - mask[rows, ::-1].argmax(axis=1)
    ends = np.concatenate([np.stack([column, row], axis=1) for column in (first, last) for row in (rows, rows + 1)])
    return ends.astype(np.int64)


def diameters(points: Points) -> tuple[float, float]:
    """Length and width of (n, 2) points: the largest distance between two of them, and the smallest between two parallel lines
    that enclose them (the largest and the smallest Feret diameter).

    Examples
    --------
    >>> length, width = diameters(np.array([[0.0, 0.0], [4.0, 0.0], [4.0, 3.0], [0.0, 3.0]]))
    >>> length, width
    (5.0, 3.0)
    """
    import cv2

    require(points.ndim == 2 and points.shape[1] == 2 and len(points) > 0, f"points must be (n, 2), got {points.shape}")
    hull = cv2.convexHull(points.astype(np.float32))[:, 0].astype(np.float64)
    length = float(np.sqrt(np.square(hull[:, None] - hull[None]).sum(axis=2)).max())
    edges = np.roll(hull, -1, axis=0) - hull
    edges = edges[np.hypot(*edges.T) > 0]
    if len(edges) == 0:
        return length, 0.0
    normals = np.stack([-edges[:, 1], edges[:, 0]], axis=1) / np.hypot(*edges.T)[:, None]
    along = hull @ normals.T
    return length, float((along.max(axis=0) - along.min(axis=0)).min())


def sizes_of(inside: Mask, cell: tuple[float, float]) -> tuple[float, float, float]:
    """Area, length and width of the cells of an (h, w) mask, which are `cell` wide and high.

    Examples
    --------
    >>> sizes_of(np.ones((3, 4), bool), (0.5, 0.5))
    (3.0, 2.5, 1.5)
    """
    return (float(inside.sum()) * math.prod(cell), *diameters(outline(inside) * np.array(cell)))
