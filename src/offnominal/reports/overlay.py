"""Pictures of what was found, on one colour scale that is anchored at the threshold, so that a good part looks calm."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from offnominal.types import Float, Mask

Picture = npt.NDArray[np.uint8]

#: Share of the threshold at which colour begins to show, and at which it is strongest.
FAINT, STRONG = 0.5, 2.0
_DEFECT = (0, 220, 255)
#: Pixels that are drawn at once.
_DRAWN_AT_ONCE = 1_000_000


def overlay(image: Picture, anomaly_map: Float, threshold: float, mask: Mask | None = None) -> Picture:
    """(H, W, 3) picture with heat where the map nears or passes the threshold, and the outline of the mask if given.

    Below half of the threshold nothing shows; from there the colour goes from dark red over yellow to white at twice of it,
    and a red line is drawn where the map passes the threshold. The scale is the same for all images of a model.
    """
    threshold = max(threshold, 1e-6)
    mixed, above = np.empty_like(image), np.empty(anomaly_map.shape, np.bool_)
    rows = max(1, _DRAWN_AT_ONCE // max(1, image.shape[1]))
    for top in range(0, len(image), rows):  # a few at a time: floats of a large image would take much memory
        part = slice(top, top + rows)
        level = anomaly_map[part] / threshold
        mixed[part], above[part] = _heated(image[part], level), level > 1
    mixed = _outlined(mixed, above, (255, 40, 40))
    return mixed if mask is None else _outlined(mixed, mask, _DEFECT)


def _heated(image: Picture, level: Float) -> Picture:
    """Rows of a picture with heat, from the map in units of the threshold."""
    heat = np.clip((level - FAINT) / (STRONG - FAINT), 0, 1)
    colour = cv2.applyColorMap(((0.35 + 0.65 * heat) * 255).astype(np.uint8), cv2.COLORMAP_HOT)[:, :, ::-1]
    opacity = (0.75 * np.minimum(1, 2 * heat))[:, :, None].astype(np.float32)
    return np.asarray((image * (1 - opacity) + colour * opacity).astype(np.uint8))


def outline(image: Picture, mask: Mask | None) -> Picture:
    """The picture with the outline of a mask."""
    return image if mask is None else _outlined(image.copy(), mask, _DEFECT)


def influence_picture(influence: Float) -> Picture:
    """(H, W) influence length, 0 to 1 -> picture; the same scale for all images."""
    return np.asarray(cv2.applyColorMap((np.clip(influence, 0, 1) * 255).astype(np.uint8), cv2.COLORMAP_VIRIDIS)[:, :, ::-1])


def shrink(picture: Picture, longest: int) -> Picture:
    """The picture with its longest side at most `longest`."""
    scale = longest / max(picture.shape[:2])
    if scale >= 1:
        return picture
    size = max(1, round(picture.shape[1] * scale)), max(1, round(picture.shape[0] * scale))
    return np.asarray(cv2.resize(picture, size, interpolation=cv2.INTER_AREA))


def _outlined(picture: Picture, mask: Mask, colour: tuple[int, int, int]) -> Picture:
    contours, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
    width = max(1, round(max(picture.shape[:2]) / 300))
    target: Any = np.ascontiguousarray(picture)
    cv2.drawContours(target, contours, -1, colour, width)
    return np.asarray(target)
