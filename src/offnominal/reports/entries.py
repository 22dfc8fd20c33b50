"""The images of a report: results, thumbnails, and full pictures as files beside the page."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import cv2
import numpy as np

from offnominal.reports.overlay import Picture, influence_picture, outline, overlay, shrink
from offnominal.reports.pyramid import Pyramid
from offnominal.types import Float, Inspection, Mask, Region, ZoneScore

#: Longest side of a thumbnail and of a full picture, in pixels.
THUMBNAIL, FULL = 200, 1600


@dataclass(frozen=True)
class Entry:
    """An image of a report.

    Attributes
    ----------
    name
        Name that the report shows.
    label
        `good`, a defect class, or None without a label.
    good
        Whether it is labelled good; None without a label.
    score, p_value, anomalous, regions, whole_p_value
        As in `Inspection`.
    size
        (H, W) of the original image.
    thumb
        Thumbnail as a data URI; None for an image without pictures.
    thumb_size
        (h, w) of the thumbnail.
    files
        `image`, `heat` and `influence` -> relative address of the full picture.
    receipts
        Region number -> relative address of its receipt, if there is one.
    not_found
        Why the part was not found in the image; None if it was.
    zones
        Score of each zone.
    zoom
        Sizes of the pyramids of a large image.
    pyramids
        Kind of picture -> folder of its pyramid.

    Examples
    --------
    >>> entry = Entry("a.png", "crack", False, 7.5, 0.01, True, (), (96, 120), None, (0, 0), files={}, receipts={})
    >>> entry.as_json()["score"]
    7.5
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
    not_found: str | None = None
    zones: tuple[ZoneScore, ...] = ()
    zoom: Pyramid | None = None
    pyramids: Mapping[str, str] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """The data for the script of the page."""
        return {
            "name": self.name,
            "label": self.label,
            "good": self.good,
            "score": self.score,
            "p_value": self.p_value,
            "whole_p_value": self.whole_p_value,
            "not_found": self.not_found,
            "zones": [asdict(zone) for zone in self.zones],
            "zoom": None if self.zoom is None else {**asdict(self.zoom), "folders": dict(self.pyramids)},
            "size": self.size,
            "files": dict(self.files),
            "regions": [
                {
                    "box": region.box,
                    "area": region.area,
                    "peak": region.peak,
                    "p_value": region.p_value,
                    "mm": None if region.mm is None else asdict(region.mm),
                    "zone": region.zone,
                    "evidence": None if region.evidence is None else asdict(region.evidence),
                    "receipt": self.receipts.get(number),
                }
                for number, region in enumerate(self.regions)
            ],
        }


@dataclass(frozen=True)
class SourceFile:
    """A picture of a training image that the page crops.

    Attributes
    ----------
    file
        Relative address.
    size
        (H, W) of the original image.

    Examples
    --------
    >>> SourceFile("report_files/good-00003.jpg", (96, 120)).size
    (96, 120)
    """

    file: str
    size: tuple[int, int]


@dataclass(frozen=True)
class Pictures:
    """The (H, W, 3) pictures of an image, and its thumbnail; see `pictures_of`.

    Attributes
    ----------
    image
        The image with the outline of its mask.
    heat, influence
        The anomaly map over the image, and the influence map.
    thumb, thumb_size
        Thumbnail of the heat map as a data URI, and its (h, w).

    Examples
    --------
    >>> black = np.zeros((8, 8, 3), np.uint8)
    >>> Pictures(black, black, black, "data:image/webp;base64,", (8, 8)).thumb_size
    (8, 8)
    """

    image: Picture
    heat: Picture
    influence: Picture
    thumb: str
    thumb_size: tuple[int, int]


def pictures_of(picture: Picture, inspection: Inspection, mask: Mask | None) -> Pictures:
    """Draw the pictures of an inspected image.

    Parameters
    ----------
    picture
        (H, W, 3) uint8 for display.
    inspection
        Result of the image.
    mask
        (H, W) defect mask, whose outline is drawn; or None.

    Examples
    --------
    >>> flat = np.zeros((40, 80), np.float32)
    >>> inspection = Inspection(None, 0.0, 1.0, False, 3.0, anomaly_map=flat, influence_map=flat, regions=())
    >>> drawn = pictures_of(np.zeros((40, 80, 3), np.uint8), inspection, mask=None)
    >>> drawn.heat.shape, drawn.thumb_size
    ((40, 80, 3), (40, 80))
    """
    full = shrink(picture, FULL)
    heat, small_heat = heat_pictures(picture, inspection, mask)
    return Pictures(
        outline(full, _fit_mask(mask, full.shape[:2])),
        heat,
        influence_picture(_fit(inspection.influence_map, full.shape[:2])),
        embedded(small_heat),
        (int(small_heat.shape[0]), int(small_heat.shape[1])),
    )


def heat_pictures(picture: Picture, inspection: Inspection, mask: Mask | None = None) -> tuple[Picture, Picture]:
    """Draw the heat map over an image, at full size and as a thumbnail.

    Parameters
    ----------
    picture, inspection, mask
        As in `pictures_of`.

    Returns
    -------
    full, thumbnail
        (h, w, 3) pictures of at most `FULL` and `THUMBNAIL` pixels a side.

    Examples
    --------
    >>> flat = np.zeros((400, 800), np.float32)
    >>> inspection = Inspection(None, 0.0, 1.0, False, 3.0, anomaly_map=flat, influence_map=flat, regions=())
    >>> [drawn.shape for drawn in heat_pictures(np.zeros((400, 800, 3), np.uint8), inspection)]
    [(400, 800, 3), (100, 200, 3)]
    """
    picture = np.ascontiguousarray(picture)  # a grey image has one channel three times, which is slow to read
    full, small = (
        overlay(shown, _fit(inspection.anomaly_map, shown.shape[:2]), inspection.threshold, _fit_mask(mask, shown.shape[:2]))
        for shown in (shrink(picture, FULL), shrink(picture, THUMBNAIL))
    )
    return full, small


def _fit(values: Float, size: tuple[int, ...]) -> Float:
    if values.shape == size:
        return values
    return np.asarray(cv2.resize(np.asarray(values), (size[1], size[0]), interpolation=cv2.INTER_AREA), dtype=np.float32)


def _fit_mask(mask: Mask | None, size: tuple[int, ...]) -> Mask | None:
    return None if mask is None else np.asarray(_fit(np.asarray(mask, dtype=np.float32), size) > 0.2)


def embedded(picture: Picture) -> str:
    """An (H, W, 3) picture as a data URI (WebP)."""
    _, content = cv2.imencode(".webp", picture[:, :, ::-1], [cv2.IMWRITE_WEBP_QUALITY, 60])
    return "data:image/webp;base64," + base64.b64encode(content.tobytes()).decode()
