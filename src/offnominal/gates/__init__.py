"""Gates: how large a region must be to count, in the whole image and in zones with rules of their own.

With a gate, the score of an image is the highest level at which its anomaly map has a region of that size: all positions at or
above the level are divided into 8-connected regions, and one of them is large enough. Lower levels only enlarge regions, so the
level is found by bisection. Without a gate, it is the maximum of the map. Regions are measured in the map of `extents`.

The score of an image with zones is the highest score of its zones and of the rest. It is calibrated as such, so the p-value of
a zone is adjusted for the number of zones, and the rate of the whole image is the stated one (Westfall and Young 1993, maximum
statistic).

OpenCV is imported where it is used, because settings hold gates and the help of the commands reads settings.
"""

from offnominal.gates.area import Area, image_score
from offnominal.gates.extent import EXTENT_SHARE, LEAKAGE_LEVEL, extents, reach_of
from offnominal.gates.gates import Gates, MmPerPixel, Zone
from offnominal.gates.limits import Gate, Limit, parse_limit
from offnominal.gates.sizes import Points, diameters, outline, sizes_of

__all__ = [
    "EXTENT_SHARE",
    "LEAKAGE_LEVEL",
    "Area",
    "Gate",
    "Gates",
    "Limit",
    "MmPerPixel",
    "Points",
    "Zone",
    "diameters",
    "extents",
    "image_score",
    "outline",
    "parse_limit",
    "reach_of",
    "sizes_of",
]
