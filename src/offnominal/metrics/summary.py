"""All metrics of an evaluation, overall and per defect class."""

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
    """One evaluated image.

    Attributes
    ----------
    good
        Whether the image is labelled good.
    label
        `good`, or the defect class.
    score
        Image score; higher is more anomalous.
    anomalous
        Whether the image was flagged.
    anomaly_map
        (H, W) float32 in pixels of the original image; None if not available.
    mask
        (H, W) bool defect mask; None if not available.
    counted
        (H, W) bool pixels that the pixel figures use; None for all.

    Examples
    --------
    >>> Judged(good=False, label="scratch", score=7.1, anomalous=True, anomaly_map=None, mask=None).label
    'scratch'
    """

    good: bool
    label: str
    score: float
    anomalous: bool
    anomaly_map: Float | None
    mask: Mask | None
    counted: Mask | None = None


def figures(images: Sequence[Judged]) -> Figures:
    """Metrics of a set of images; None without the defects, good images or masks that a metric needs.

    Examples
    --------
    >>> good = Judged(good=True, label="good", score=1.0, anomalous=False, anomaly_map=None, mask=None)
    >>> bad = Judged(good=False, label="scratch", score=7.0, anomalous=True, anomaly_map=None, mask=None)
    >>> result = figures([good, bad])
    >>> result["image_auroc"], result["detection_rate"], result["pixel_auroc"]
    (1.0, 1.0, None)
    """
    return figures_and_curves(images)[0]


def figures_and_curves(images: Sequence[Judged]) -> tuple[Figures, Curves]:
    """Metrics as in `figures`, and their curves, thinned for plotting. The pixels are sorted only once for both.

    Examples
    --------
    >>> good = Judged(good=True, label="good", score=1.0, anomalous=False, anomaly_map=None, mask=None)
    >>> bad = Judged(good=False, label="scratch", score=7.0, anomalous=True, anomaly_map=None, mask=None)
    >>> result, curves = figures_and_curves([good, bad])
    >>> curves.roc[-1].tolist(), curves.pro
    ([1.0, 1.0], None)
    """
    good = np.array([image.score for image in images if image.good])
    bad = np.array([image.score for image in images if not image.good])
    flagged_good = [image.anomalous for image in images if image.good]
    flagged_bad = [image.anomalous for image in images if not image.good]
    by_image = rank(bad, good) if len(bad) and len(good) else None
    by_pixel, by_region = _pixel_rankings(images)
    metrics: Figures = {
        **_ranked("image", by_image),
        **_ranked("pixel", by_pixel),
        "aupro_0.30": None if by_region is None else area_under_roc(by_region, 0.30),
        "aupro_0.05": None if by_region is None else area_under_roc(by_region, 0.05),
        "false_alarm_rate": float(np.mean(flagged_good)) if flagged_good else None,
        "detection_rate": float(np.mean(flagged_bad)) if flagged_bad else None,
        "n_good": len(good),
        "n_defect": len(bad),
    }
    curves = Curves(
        None if by_image is None else thinned(roc_points(by_image)),
        None if by_image is None else thinned(precision_recall_points(by_image)),
        None if by_region is None else thinned(roc_points(by_region)),
        None if by_pixel is None else thinned(precision_recall_points(by_pixel)),
    )
    return metrics, curves


def figures_by_class(images: Sequence[Judged]) -> dict[str, Figures]:
    """Metrics of each defect class against all good images.

    Examples
    --------
    >>> good = Judged(good=True, label="good", score=1.0, anomalous=False, anomaly_map=None, mask=None)
    >>> bad = Judged(good=False, label="scratch", score=7.0, anomalous=True, anomaly_map=None, mask=None)
    >>> figures_by_class([good, bad])["scratch"]["n_defect"]
    1
    """
    classes = sorted({image.label for image in images if not image.good})
    return {name: figures([image for image in images if image.good or image.label == name]) for name in classes}


def _ranked(prefix: str, ranking: Ranking | None) -> dict[str, Any]:
    return {
        f"{prefix}_auroc": None if ranking is None else area_under_roc(ranking),
        f"{prefix}_ap": None if ranking is None else average_precision(ranking),
        f"{prefix}_f1_max": None if ranking is None else best_f1(ranking),
    }


def _pixel_rankings(images: Sequence[Judged]) -> tuple[Ranking | None, Ranking | None]:
    """Rankings of pixels and of defect regions; None without masks."""
    pixels = PixelScores()
    for image in images:
        if image.anomaly_map is not None and (image.good or image.mask is not None):
            pixels.add(image.anomaly_map, image.mask, image.counted)
    if not pixels.complete:
        return None, None
    by_pixel = pixels.by_pixel()
    return by_pixel, pixels.by_region(by_pixel)
