"""Detects, localises and explains visual anomalies; learns from images of good parts alone."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from offnominal.detector import Detector, load
    from offnominal.errors import (
        BackboneError,
        ImageError,
        InputError,
        ModelFileError,
        OffnominalError,
        OutputError,
        SettingsError,
    )
    from offnominal.observer import Observer
    from offnominal.types import Evidence, Inspection, Region

__version__ = "0.1.0"
__all__ = [
    "BackboneError",
    "Detector",
    "Evidence",
    "ImageError",
    "InputError",
    "Inspection",
    "ModelFileError",
    "Observer",
    "OffnominalError",
    "OutputError",
    "Region",
    "SettingsError",
    "load",
]

#: Names that are not errors, and the module of each.
_MODULES = {
    "Detector": "detector",
    "Evidence": "types",
    "Inspection": "types",
    "Observer": "observer",
    "Region": "types",
    "load": "detector",
}


def __getattr__(name: str) -> Any:
    """Import a name when it is first used: torch takes seconds to import, which the command line cannot wait for."""
    if name in __all__:
        return getattr(import_module(f"offnominal.{_MODULES.get(name, 'errors')}"), name)
    raise AttributeError(f"module 'offnominal' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
