"""Decisions: calibrated thresholds and p-values, defect regions, suspect images, lots and drift."""

from offnominal.decisions.appearance import DEVIATION, Appearance, halves, learn_appearance
from offnominal.decisions.calibration import (
    FOLDS,
    LEAVE_ONE_OUT,
    SPLIT,
    Calibration,
    Method,
    calibrate,
    choose_method,
    images_needed,
    split_size,
)
from offnominal.decisions.drift import DriftTest
from offnominal.decisions.lots import Lot, judge_lot, smallest_pull
from offnominal.decisions.regions import find_regions, region_masks
from offnominal.decisions.suspects import called_suspect, outlier_p_values, worst_share

__all__ = [
    "DEVIATION",
    "FOLDS",
    "LEAVE_ONE_OUT",
    "SPLIT",
    "Appearance",
    "Calibration",
    "DriftTest",
    "Lot",
    "Method",
    "calibrate",
    "called_suspect",
    "choose_method",
    "find_regions",
    "halves",
    "images_needed",
    "judge_lot",
    "learn_appearance",
    "outlier_p_values",
    "region_masks",
    "smallest_pull",
    "split_size",
    "worst_share",
]
