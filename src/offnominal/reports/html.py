"""The report of an evaluation: one HTML file with everything inside, which works offline."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

import cv2
import jinja2
import numpy as np

from offnominal.reports.overlay import Picture, influence_picture, outline, overlay, shrink
from offnominal.reports.plots import roc_curve, score_histogram
from offnominal.types import Float, Inspection, Mask

#: Most images in the gallery, and the longest side of a picture in it.
GALLERY, THUMBNAIL = 72, 300

#: Figure -> (its name, what it means).
MEANING = {
    "image_auroc": ("Image AUROC", "chance that a defective image scores above a good one"),
    "image_ap": ("Image AP", "precision averaged over all detection rates"),
    "image_f1_max": ("Image F1-max", "best balance of precision and detection that any threshold gives"),
    "pixel_auroc": ("Pixel AUROC", "chance that a defect pixel scores above a good one"),
    "pixel_ap": ("Pixel AP", "precision over defect pixels, averaged over all shares found"),
    "pixel_f1_max": ("Pixel F1-max", "best overlap of map and mask that any threshold gives"),
    "aupro_0.30": ("AUPRO 0.30", "overlap with each defect, averaged up to 30 % false pixels"),
    "aupro_0.05": ("AUPRO 0.05", "the same up to 5 % false pixels: the stricter test"),
    "false_alarm_rate": ("False alarms", "share of good images flagged at the calibrated threshold"),
    "detection_rate": ("Detected", "share of defective images flagged at that threshold"),
}


@dataclass(frozen=True)
class Shown:
    """One image of the report; `picture` is (H, W, 3) for a screen."""

    name: str
    label: str
    good: bool
    inspection: Inspection
    mask: Mask | None

    @property
    def wrong(self) -> bool:
        """Missed, or a false alarm."""
        return self.good == self.inspection.anomalous


def gallery_order(images: Iterable[Shown]) -> list[Shown]:
    """Worst misses and worst false alarms first, then the rest by turns from every class."""
    images = list(images)
    misses = sorted((i for i in images if i.wrong and not i.good), key=lambda i: i.inspection.score)
    alarms = sorted((i for i in images if i.wrong and i.good), key=lambda i: -i.inspection.score)
    first: list[Shown] = []
    for place in range(min(GALLERY // 3, max(len(misses), len(alarms), 0))):
        first += misses[place : place + 1] + alarms[place : place + 1]
    chosen = {id(image) for image in first}
    groups: dict[str, list[Shown]] = {}
    for image in sorted(images, key=lambda i: -i.inspection.score):
        if id(image) not in chosen:
            groups.setdefault(image.label, []).append(image)
    while any(groups.values()) and len(first) < GALLERY:
        for group in groups.values():
            if group:
                first.append(group.pop(0))
    return first[:GALLERY]


def evaluation_report(
    title: str,
    facts: Mapping[str, str],
    warnings: Iterable[str],
    metrics: Mapping[str, Any],
    images: list[Shown],
    pictures: Iterable[tuple[Shown, Picture]],
    threshold: float,
) -> str:
    """The HTML text. `pictures` gives the gallery's images in order, decoded as they are needed."""
    good = np.array([i.inspection.score for i in images if i.good], dtype=np.float32)
    defect = np.array([i.inspection.score for i in images if not i.good], dtype=np.float32)
    environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    template = environment.from_string(files("offnominal.reports").joinpath("report.html.j2").read_text("utf-8"))
    return template.render(
        title=title,
        facts=facts,
        warnings=list(warnings),
        meaning=MEANING,
        metrics=metrics,
        histogram=score_histogram(good, defect, threshold),
        roc=roc_curve(good, defect, metrics["false_alarm_rate"], metrics["detection_rate"]),
        cards=[_card(shown, picture, threshold) for shown, picture in pictures],
        total=len(images),
        wrong=sum(image.wrong for image in images),
        threshold=threshold,
    )


def _card(shown: Shown, picture: Picture, threshold: float) -> dict[str, Any]:
    found = shown.inspection
    small = shrink(picture, THUMBNAIL)
    size = small.shape[:2]
    mask = None if shown.mask is None else _fit(shown.mask.astype(np.float32), size) > 0.2
    return {
        "name": shown.name,
        "label": shown.label,
        "score": found.score,
        "p_value": found.p_value,
        "verdict": ("missed" if found.anomalous is False else "found")
        if not shown.good
        else "false alarm"
        if found.anomalous
        else "calm",
        "image": _embedded(outline(small, mask)),
        "heat": _embedded(overlay(small, _fit(found.anomaly_map, size), threshold)),
        "influence": _embedded(influence_picture(_fit(found.influence_map, size))),
    }


def _fit(values: Float, size: tuple[int, int]) -> Float:
    return np.asarray(cv2.resize(values, size[::-1], interpolation=cv2.INTER_AREA), dtype=np.float32)


def _embedded(picture: Picture) -> str:
    _, content = cv2.imencode(".webp", picture[:, :, ::-1], [cv2.IMWRITE_WEBP_QUALITY, 80])
    return "data:image/webp;base64," + base64.b64encode(content.tobytes()).decode()
