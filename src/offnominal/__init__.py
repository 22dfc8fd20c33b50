"""offnominal: learns from pictures of good parts alone; scores, locates and explains what is off in new ones."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from offnominal.detector import Detector, load

__version__ = "0.1.0"
__all__ = ["Detector", "load"]


def __getattr__(name: str) -> Any:
    """Import the detector (and torch) only when it is asked for, so that the command line answers at once."""
    if name in __all__:
        import offnominal.detector

        return getattr(offnominal.detector, name)
    raise AttributeError(f"module 'offnominal' has no attribute '{name}'")
