"""Decisions: calibrated thresholds and p-values, defect regions, suspect images, lots and drift."""

from offnominal.decisions.appearance import LIKENESS, Appearance, halves, learn_appearance
from offnominal.decisions.calibration import (
    FOLDS,
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
from offnominal.decisions.suspects import called_suspect, outlier_p_values, worst_share

__all__ = [
    "FOLDS",
    "LEAVE_ONE_OUT",
    "LIKENESS",
    "SPLIT",
    "Appearance",
    "Calibration",
    "DriftTest",
    "Lot",
    "Method",
    "calibrate",
    "called_suspect",
    "choose_method",
    "fewest_bad",
    "find_regions",
    "halves",
    "held_count",
    "images_needed",
    "judge_lot",
    "learn_appearance",
    "outlier_p_values",
    "region_masks",
    "worst_share",
]
