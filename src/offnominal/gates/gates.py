"""The gates of an image and its zones."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from offnominal.gates.area import Area
from offnominal.gates.limits import Gate, Limit
from offnominal.roi import RegionOfInterest
from offnominal.types import Mask

#: Regions of every size count.
OPEN = Gate()
#: Size of a pixel in mm: horizontal, vertical.
MmPerPixel = tuple[float, float]


@dataclass(frozen=True)
class Zone:
    """A part of the image with a gate of its own.

    Examples
    --------
    >>> mask = np.zeros((4, 6), bool)
    >>> mask[:, :3] = True
    >>> Zone("seal", RegionOfInterest.of(mask), Gate(min_length="1mm")).region.share
    0.5
    """

    name: str
    region: RegionOfInterest
    gate: Gate


@dataclass(frozen=True)
class Gates:
    """The gate of an image, its zones, and the size of a pixel.

    Attributes
    ----------
    gate
        The gate of the part that lies in no zone.
    zones
        Zones with gates of their own.
    mm_per_pixel
        Size of a pixel of the original image in mm: horizontal, vertical. None if it is not known.
    region
        Region of interest; None if the whole image counts.

    Examples
    --------
    >>> gates = Gates(Gate(min_area="0.3mm2"), mm_per_pixel=(0.1, 0.1))
    >>> gates.areas((64, 64), (640, 640))[0].cells  # a cell has 10 x 10 pixels, 1 mm²
    1
    >>> gates.areas((320, 320), (640, 640))[0].cells  # 0.04 mm²
    8
    """

    gate: Gate = OPEN
    zones: tuple[Zone, ...] = ()
    mm_per_pixel: MmPerPixel | None = None
    region: RegionOfInterest | None = None

    @property
    def in_mm(self) -> bool:
        """Whether a gate needs the size of a pixel."""
        return any(gate.in_mm for gate in (self.gate, *(zone.gate for zone in self.zones)))

    def areas(
        self, shape: tuple[int, ...], original: tuple[int, int], mm_per_pixel: MmPerPixel | None = None
    ) -> tuple[Area, ...]:
        """The areas of an (h, w) map of an image of (H, W) pixels: each zone, and the part in no zone.

        Parameters
        ----------
        shape
            (h, w) of the map.
        original
            (H, W) of the image.
        mm_per_pixel
            Size of its pixels; by default that of the model.

        Raises
        ------
        ValueError
            A gate is in mm, and the size of a pixel is not known.
        """
        return _areas(self, (shape[0], shape[1]), original, mm_per_pixel or self.mm_per_pixel)

    def problem(self, shape: tuple[int, ...], original: tuple[int, int], mm_per_pixel: MmPerPixel | None = None) -> str | None:
        """Why no region of an image of (H, W) pixels with an (h, w) map could pass a gate; None if all is well."""
        return _problem(self, (shape[0], shape[1]), original, mm_per_pixel or self.mm_per_pixel)


@lru_cache(maxsize=64)
def _problem(gates: Gates, shape: tuple[int, int], original: tuple[int, int], mm: MmPerPixel | None) -> str | None:
    if gates.in_mm and mm is None:
        return "a gate is in mm and the size of a pixel is not known; give mm_per_pixel, such as 0.02"
    for zone in gates.zones:
        if not zone.region.suits(original):
            height, width = zone.region.size
            return (
                f"is {original[1]} x {original[0]}, and the zones were drawn for {width} x {height}; draw them on an image of "
                "this shape"
            )
    for area in gates.areas(shape, original, mm):
        whole = area.inside if area.inside is not None else np.ones(shape, np.bool_)
        name = "the image" if area.name is None else f"the zone '{area.name}'"
        if not whole.any():
            return f"{name} lies outside of the region of interest, or is smaller than a cell of the anomaly map; enlarge it"
        if not area.large_enough(whole):
            return f"{name} is smaller than its own gate; give a smaller gate"
    return None


@lru_cache(maxsize=64)
def _areas(gates: Gates, shape: tuple[int, int], original: tuple[int, int], mm: MmPerPixel | None) -> tuple[Area, ...]:
    cell = original[1] / shape[1], original[0] / shape[0]
    region = gates.region
    left: Mask | None = None if region is None or region.whole else region.at(shape)
    areas = []
    for zone in gates.zones:
        inside = zone.region.at(shape) & (True if left is None else left)
        areas.append(_area(zone.name, inside, zone.gate, cell, mm))
        left = ~inside if left is None else left & ~inside
    if left is None or left.any() or not areas:
        areas.append(_area(None, left, gates.gate, cell, mm))
    return tuple(areas)


def _area(name: str | None, inside: Mask | None, gate: Gate, cell: tuple[float, float], mm: MmPerPixel | None) -> Area:
    """An area of a map whose cells have `cell` pixels, which may be `mm` wide and high."""
    area, length = gate.limits

    def cell_in(limit: Limit) -> tuple[float, float]:
        if limit.unit == "px" or limit.value == 0:
            return cell
        if mm is None:
            raise ValueError("a gate is in mm and the size of a pixel is not known; give mm_per_pixel, such as 0.02")
        return cell[0] * mm[0], cell[1] * mm[1]

    cells = max(1, math.ceil(area.value / math.prod(cell_in(area)) - 1e-9))
    return Area(name, inside, cells, length.value, cell_in(length))
