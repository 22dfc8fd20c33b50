"""Decisions: scores of normals -> calibration; score -> p-value, verdict; map -> regions; lots; the stream as a whole."""

from offnominal.decisions.appearance import LIKENESS, Appearance, halves, learn_appearance
from offnominal.decisions.conformal import (
    LEAVE_ONE_OUT,
    SPLIT,
    Calibration,
    Method,
    calibrate,
    choose_method,
    held_count,
    images_needed,
)
from offnominal.decisions.drift import DriftTest
from offnominal.decisions.lots import Lot, fewest_bad, judge_lot
from offnominal.decisions.regions import find_regions, region_masks

__all__ = [
    "LEAVE_ONE_OUT",
    "LIKENESS",
    "SPLIT",
    "Appearance",
    "Calibration",
    "DriftTest",
    "Lot",
    "Method",
    "calibrate",
    "choose_method",
    "fewest_bad",
    "find_regions",
    "halves",
    "held_count",
    "images_needed",
    "judge_lot",
    "learn_appearance",
    "region_masks",
]
