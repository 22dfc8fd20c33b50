"""All figures of an evaluation, per class and over all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from offnominal.metrics.curves import Curves, precision_recall_points, roc_points, thinned
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
    return figures_and_curves(images)[0]


def figures_and_curves(images: Sequence[Judged]) -> tuple[Figures, Curves]:
    """The same, with the curves behind them, thinned for drawing; both come from one sorting of the pixels."""
    good = np.array([image.score for image in images if image.good])
    bad = np.array([image.score for image in images if not image.good])
    flagged_good = [image.anomalous for image in images if image.good]
    flagged_bad = [image.anomalous for image in images if not image.good]
    by_image = rank(bad, good) if len(bad) and len(good) else None
    by_pixel, by_region = _pixel_rankings(images)
    measured: Figures = {
        **_ranked("image", by_image),
        **_ranked("pixel", by_pixel),
        "aupro_0.30": None if by_region is None else area_under_roc(by_region, 0.30),
        "aupro_0.05": None if by_region is None else area_under_roc(by_region, 0.05),
        "false_alarm_rate": float(np.mean(flagged_good)) if flagged_good else None,
        "detection_rate": float(np.mean(flagged_bad)) if flagged_bad else None,
        "n_good": len(good),
        "n_defect": len(bad),
    }
    drawn = Curves(
        None if by_image is None else thinned(roc_points(by_image)),
        None if by_image is None else thinned(precision_recall_points(by_image)),
        None if by_region is None else thinned(roc_points(by_region)),
        None if by_pixel is None else thinned(precision_recall_points(by_pixel)),
    )
    return measured, drawn


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


def _pixel_rankings(images: Sequence[Judged]) -> tuple[Ranking | None, Ranking | None]:
    """Pixels, and defect regions; None where masks are missing."""
    pixels = PixelScores()
    for image in images:
        if image.anomaly_map is not None and (image.good or image.mask is not None):
            pixels.add(image.anomaly_map, image.mask)
    if not pixels.complete:
        return None, None
    by_pixel = pixels.by_pixel()
    return by_pixel, pixels.by_region(by_pixel)
