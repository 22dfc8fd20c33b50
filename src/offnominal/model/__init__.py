"""The fitted model and its file format."""

from offnominal.model.checks import require_finite
from offnominal.model.file import load_model, require_writable, save_model
from offnominal.model.member import BackboneIdentity, DistanceScale, HeldOut, Member, Merge, Replacements
from offnominal.model.model import LeftOut, Model, as_stored

__all__ = [
    "BackboneIdentity",
    "DistanceScale",
    "HeldOut",
    "LeftOut",
    "Member",
    "Merge",
    "Model",
    "Replacements",
    "as_stored",
    "load_model",
    "require_finite",
    "require_writable",
    "save_model",
]
