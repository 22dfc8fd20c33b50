"""Decisions: scores of normals -> calibration; score -> p-value, verdict; map -> regions."""

from offnominal.decisions.conformal import Calibration, calibrate, images_needed
from offnominal.decisions.regions import find_regions, region_masks

__all__ = ["Calibration", "calibrate", "find_regions", "images_needed", "region_masks"]
