"""A part of an anomaly map with a gate: its score, and which regions are large enough."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from offnominal.gates.sizes import diameters, outline
from offnominal.types import Float, Mask


@dataclass(frozen=True, eq=False)
class Area:
    """A part of an anomaly map with a gate, in cells of the map.

    Attributes
    ----------
    name
        Name of the zone; None for the part in no zone.
    inside
        (h, w) cells that belong to it; None for all.
    cells
        Fewest cells of a region.
    length
        Smallest length of a region.
    cell
        Width and height of a cell in the unit of `length`.

    Examples
    --------
    >>> scores = np.array([[9.0, 0.0, 3.0, 4.0, 2.0]], np.float32)
    >>> Area(None, None, 1, 0.0, (1, 1)).level(scores), Area(None, None, 2, 0.0, (1, 1)).level(scores)
    (9.0, 3.0)
    """

    name: str | None
    inside: Mask | None
    cells: int
    length: float
    cell: tuple[float, float]

    @property
    def open(self) -> bool:
        """Whether regions of every size count."""
        return self.cells <= 1 and self.length <= math.hypot(*self.cell)

    def within(self, mask: Mask) -> Mask:
        """The cells of an (h, w) mask that belong to the area."""
        return mask if self.inside is None else mask & self.inside

    def level(self, scores: Float, among: Mask | None = None) -> float:
        """The highest level at which an (h, w) map has a region that is large enough, among some cells.

        It is the lowest value if there is none, which `Gates.problem` excludes for whole areas.
        """
        inside = self.inside if among is None else self.within(among)
        values = scores.ravel() if inside is None else scores[inside]
        if self.open:
            return float(values.max())
        descending = np.sort(values)[::-1]
        low, high = min(self.cells, len(descending)) - 1, len(descending) - 1
        while low < high:
            middle = (low + high) // 2
            above = scores >= descending[middle]
            if self.large_enough(above if inside is None else above & inside):
                high = middle
            else:
                low = middle + 1
        return float(descending[high])

    def large_enough(self, above: Mask) -> bool:
        """Whether an (h, w) mask has a region that is large enough; the area itself is ignored."""
        import cv2

        count, labels, stats, _ = cv2.connectedComponentsWithStats(above.view(np.uint8), connectivity=8)
        large = 1 + np.flatnonzero(stats[1:count, cv2.CC_STAT_AREA] >= self.cells)
        if len(large) == 0 or self.length <= 0:
            return len(large) > 0
        widths, heights = stats[large, cv2.CC_STAT_WIDTH] * self.cell[0], stats[large, cv2.CC_STAT_HEIGHT] * self.cell[1]
        if (np.maximum(widths, heights) >= self.length).any():
            return True
        for label in large[np.hypot(widths, heights) >= self.length]:
            left, top, width, height = stats[label, :4]
            inside = labels[top : top + height, left : left + width] == label
            if diameters(outline(inside) * np.array(self.cell))[0] >= self.length:
                return True
        return False


def image_score(scores: Float, areas: Sequence[Area]) -> float:
    """Score of an image: the highest level of an area of its (h, w) map. Higher is more anomalous.

    Examples
    --------
    >>> scores = np.array([[9.0, 0.0, 3.0, 4.0, 2.0]], np.float32)
    >>> from offnominal.gates import Gate, Gates
    >>> image_score(scores, Gates(Gate(min_area="2px2")).areas((1, 5), (1, 5)))
    3.0
    """
    return max(area.level(scores) for area in areas)
