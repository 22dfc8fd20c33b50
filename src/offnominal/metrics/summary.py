"""All figures of an evaluation, per class and over all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from offnominal.metrics.localisation import PixelScores
from offnominal.metrics.ranking import Ranking, area_under_roc, average_precision, best_f1, rank
from offnominal.types import Float, Mask

Figures = dict[str, float | int | None]


@dataclass(frozen=True)
class Judged:
    """One evaluated image: its label (`good` or a defect), score, verdict, map and mask (None: no mask at hand)."""

    good: bool
    label: str
    score: float
    anomalous: bool
    anomaly_map: Float | None
    mask: Mask | None


def figures(images: Sequence[Judged]) -> Figures:
    """The figures of a set of images; None for what cannot be said without defects, good images or masks."""
    good = np.array([image.score for image in images if image.good])
    bad = np.array([image.score for image in images if not image.good])
    flagged_good = [image.anomalous for image in images if image.good]
    flagged_bad = [image.anomalous for image in images if not image.good]
    return {
        **_ranked("image", rank(bad, good) if len(bad) and len(good) else None),
        **_pixel_figures(images),
        "false_alarm_rate": float(np.mean(flagged_good)) if flagged_good else None,
        "detection_rate": float(np.mean(flagged_bad)) if flagged_bad else None,
        "n_good": len(good),
        "n_defect": len(bad),
    }


def figures_by_class(images: Sequence[Judged]) -> dict[str, Figures]:
    """The figures of each defect class against all good images."""
    classes = sorted({image.label for image in images if not image.good})
    return {name: figures([image for image in images if image.good or image.label == name]) for name in classes}


def _ranked(prefix: str, ranking: Ranking | None) -> dict[str, Any]:
    return {
        f"{prefix}_auroc": None if ranking is None else area_under_roc(ranking),
        f"{prefix}_ap": None if ranking is None else average_precision(ranking),
        f"{prefix}_f1_max": None if ranking is None else best_f1(ranking),
    }


def _pixel_figures(images: Sequence[Judged]) -> dict[str, Any]:
    pixels = PixelScores()
    for image in images:
        if image.anomaly_map is not None and (image.good or image.mask is not None):
            pixels.add(image.anomaly_map, image.mask)
    ranking = pixels.by_pixel() if pixels.complete else None
    regions = None if ranking is None else pixels.by_region(ranking)
    return {
        **_ranked("pixel", ranking),
        "aupro_0.30": None if regions is None else area_under_roc(regions, 0.30),
        "aupro_0.05": None if regions is None else area_under_roc(regions, 0.05),
    }
