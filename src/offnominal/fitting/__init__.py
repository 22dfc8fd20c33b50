"""From normal images to a model: survey, fit, calibration, update, audit."""

from offnominal.fitting.audit import Audit
from offnominal.fitting.fit import Fitting
from offnominal.fitting.plan import Plan
from offnominal.fitting.split import calibrated_by_split, split, splits
from offnominal.fitting.units import TrainingSource, content_key, held_together
from offnominal.fitting.update import Change, updated

__all__ = [
    "Audit",
    "Change",
    "Fitting",
    "Plan",
    "TrainingSource",
    "calibrated_by_split",
    "content_key",
    "held_together",
    "split",
    "splits",
    "updated",
]
