"""Labelled images -> figures."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from offnominal.images import Item
from offnominal.metrics import Figures
from offnominal.types import Inspection, Mask


@dataclass(frozen=True)
class Evaluated:
    """One test image: what it is, what was found, and its mask where there is one."""

    item: Item
    inspection: Inspection
    mask: Mask | None


@dataclass(frozen=True)
class Evaluation:
    """Figures over all images and per class; `unreadable` holds (name, reason)."""

    figures: Figures
    classes: dict[str, Figures]
    images: tuple[Evaluated, ...]
    unreadable: tuple[tuple[str, str], ...]
    seconds: float

    def as_json(self) -> dict[str, Any]:
        """The content of `metrics.json`."""
        count = max(1, len(self.images))
        return {
            **self.figures,
            "ms_per_image": 1000 * self.seconds / count,
            "images_per_second": count / self.seconds if self.seconds > 0 else None,
            "n_unreadable": len(self.unreadable),
            "classes": self.classes,
        }
