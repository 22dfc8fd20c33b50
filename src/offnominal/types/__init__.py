"""Value types shared by all packages. Each rejects a wrong shape on construction."""

from offnominal.types.arrays import Depth, Float, Index, Mask, Progress, Resize, interior, interior_shape, require
from offnominal.types.results import Evidence, Inspection, Neighbour, Pose, Region, SizeInMm, ZoneScore

__all__ = [
    "Depth",
    "Evidence",
    "Float",
    "Index",
    "Inspection",
    "Mask",
    "Neighbour",
    "Pose",
    "Progress",
    "Region",
    "Resize",
    "SizeInMm",
    "ZoneScore",
    "interior",
    "interior_shape",
    "require",
]
