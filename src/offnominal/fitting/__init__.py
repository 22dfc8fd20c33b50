"""Normal images -> model: survey, fit, calibration, update, audit."""

from offnominal.fitting.audit import Audit
from offnominal.fitting.fit import audit_images, fit_model
from offnominal.fitting.stopwatch import Stopwatch
from offnominal.fitting.training_sources import TrainingSource, added_sources, first_unused_number, training_sources
from offnominal.fitting.update import UpdateResult, update_model
from offnominal.fitting.workers import Workers

__all__ = [
    "Audit",
    "Stopwatch",
    "TrainingSource",
    "UpdateResult",
    "Workers",
    "added_sources",
    "audit_images",
    "first_unused_number",
    "fit_model",
    "training_sources",
    "update_model",
]
