"""An image of a report: what is said about it, its thumbnail, and its full pictures as files beside the page."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import cv2
import numpy as np

from offnominal.reports.overlay import Picture, influence_picture, outline, overlay, shrink
from offnominal.types import Float, Inspection, Mask, Region

#: Longest side of a thumbnail and of a full picture, in pixels.
THUMBNAIL, FULL = 200, 1600


@dataclass(frozen=True)
class Entry:
    """One image.

    Attributes:
        name: as the user knows it.
        label: `good`, a defect class, or None where nobody said.
        good: whether it is labelled good; None without a label.
        score, p_value, anomalous, regions, whole_p_value: as in `Inspection`.
        size: (H, W) of the original image.
        thumb: its thumbnail as a data URI, `thumb_size` (h, w); None where the report shows no picture of it.
        files: `image`, `heat` and `influence` -> relative address of the full picture.
        receipts: region number -> relative address of its receipt picture, for those that have one.
    """

    name: str
    label: str | None
    good: bool | None
    score: float
    p_value: float
    anomalous: bool
    regions: tuple[Region, ...]
    size: tuple[int, int]
    thumb: str | None
    thumb_size: tuple[int, int]
    files: Mapping[str, str]
    receipts: Mapping[int, str]
    whole_p_value: float | None = None

    def as_json(self) -> dict[str, Any]:
        """What the page's script needs."""
        return {
            "name": self.name,
            "label": self.label,
            "good": self.good,
            "score": self.score,
            "p_value": self.p_value,
            "whole_p_value": self.whole_p_value,
            "size": self.size,
            "files": dict(self.files),
            "regions": [
                {
                    "box": region.box,
                    "area": region.area,
                    "peak": region.peak,
                    "evidence": None if region.evidence is None else asdict(region.evidence),
                    "receipt": self.receipts.get(number),
                }
                for number, region in enumerate(self.regions)
            ],
        }


@dataclass(frozen=True)
class SourceFile:
    """The picture of a good image that a page cuts crops from: its relative address, and (H, W) of the original."""

    file: str
    size: tuple[int, int]


@dataclass(frozen=True)
class Pictures:
    """The full pictures of an image, (H, W, 3), and its thumbnail as a data URI with its (h, w)."""

    image: Picture
    heat: Picture
    influence: Picture
    thumb: str
    thumb_size: tuple[int, int]


def pictures_of(picture: Picture, found: Inspection, mask: Mask | None) -> Pictures:
    """Draw an image (H, W, 3) with what was found in it, and the outline of its mask if there is one."""
    full = shrink(picture, FULL)
    drawn = overlay(full, _fit(found.anomaly_map, full.shape[:2]), found.threshold, _fit_mask(mask, full.shape[:2]))
    small = shrink(picture, THUMBNAIL)
    size = (int(small.shape[0]), int(small.shape[1]))
    heat = overlay(small, _fit(found.anomaly_map, size), found.threshold, _fit_mask(mask, size))
    return Pictures(
        outline(full, _fit_mask(mask, full.shape[:2])),
        drawn,
        influence_picture(_fit(found.influence_map, full.shape[:2])),
        embedded(heat),
        size,
    )


def _fit(values: Float, size: tuple[int, ...]) -> Float:
    if values.shape == size:
        return values
    return np.asarray(cv2.resize(np.asarray(values), (size[1], size[0]), interpolation=cv2.INTER_AREA), dtype=np.float32)


def _fit_mask(mask: Mask | None, size: tuple[int, ...]) -> Mask | None:
    return None if mask is None else np.asarray(_fit(np.asarray(mask, dtype=np.float32), size) > 0.2)


def embedded(picture: Picture) -> str:
    """(H, W, 3) -> data URI of a small WebP."""
    _, content = cv2.imencode(".webp", picture[:, :, ::-1], [cv2.IMWRITE_WEBP_QUALITY, 60])
    return "data:image/webp;base64," + base64.b64encode(content.tobytes()).decode()
