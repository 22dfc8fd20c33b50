"""Decisions: scores of normals -> calibration; score -> p-value, verdict; map -> regions."""

from offnominal.decisions.conformal import Calibration, calibrate, images_needed
from offnominal.decisions.regions import find_regions
from offnominal.decisions.suspects import called_suspect, outlier_p_values, worst_share

__all__ = [
    "Calibration",
    "calibrate",
    "called_suspect",
    "find_regions",
    "images_needed",
    "outlier_p_values",
    "worst_share",
]
