"""Heat maps over images, on one colour scale that is anchored at the threshold."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from offnominal.types import Float, Mask

Picture = npt.NDArray[np.uint8]

#: Multiples of the threshold at which colour starts, and at which it is strongest.
FAINT, STRONG = 0.5, 2.0
#: Colours of the outlines of regions above the threshold, and of labelled defects.
_ABOVE, _DEFECT = (255, 40, 40), (0, 220, 255)
#: Pixels per block; float copies of a whole large image would take too much memory.
_BLOCK_PIXELS = 1_000_000


def overlay(image: Picture, anomaly_map: Float, threshold: float, mask: Mask | None = None) -> Picture:
    """Draw an anomaly map over an image.

    Colour goes from dark red at half of the threshold over yellow to white at twice the threshold. A red line outlines the
    regions above the threshold. The scale is the same for all images of a model.

    Parameters
    ----------
    image
        (H, W, 3) uint8 RGB.
    anomaly_map
        (H, W) float32; higher is more anomalous.
    threshold
        Calibrated threshold.
    mask
        (H, W) defect mask; its outline is drawn in blue.

    Returns
    -------
    array
        (H, W, 3) uint8 RGB.

    Examples
    --------
    >>> image = np.full((4, 4, 3), 100, np.uint8)
    >>> bool((overlay(image, np.full((4, 4), 1.0, np.float32), threshold=3.0) == image).all())
    True
    >>> bool((overlay(image, np.full((4, 4), 2.5, np.float32), threshold=3.0) == image).any())
    False
    """
    threshold = max(threshold, 1e-6)
    heated, above = np.empty_like(image), np.empty(anomaly_map.shape, np.bool_)
    rows = max(1, _BLOCK_PIXELS // max(1, image.shape[1]))
    for top in range(0, len(image), rows):
        part = slice(top, top + rows)
        level = anomaly_map[part] / threshold
        heated[part], above[part] = _heated(image[part], level), level > 1
    heated = _outlined(heated, above, _ABOVE)
    return heated if mask is None else _outlined(heated, mask, _DEFECT)


def _heated(image: Picture, level: Float) -> Picture:
    """Rows of an image with heat; `level` is the map divided by the threshold. Most pixels have none and are only copied."""
    heated, hot = image.copy(), level > FAINT
    heat = np.minimum((level[hot] - FAINT) / (STRONG - FAINT), 1)
    if heat.size:
        colour = cv2.applyColorMap(((0.35 + 0.65 * heat) * 255).astype(np.uint8)[:, None], cv2.COLORMAP_HOT)[:, 0, ::-1]
        opacity = (0.75 * np.minimum(1, 2 * heat))[:, None].astype(np.float32)
        heated[hot] = (heated[hot] * (1 - opacity) + colour * opacity).astype(np.uint8)
    return heated


def outline(image: Picture, mask: Mask | None) -> Picture:
    """The image with the outline of a mask.

    Examples
    --------
    >>> outline(np.zeros((1, 2, 3), np.uint8), np.array([[True, False]])).tolist()
    [[[0, 220, 255], [0, 0, 0]]]
    """
    return image if mask is None else _outlined(image.copy(), mask, _DEFECT)


def influence_picture(influence: Float) -> Picture:
    """Draw an (H, W) influence map with values in [0, 1], from dark blue to yellow.

    Examples
    --------
    >>> influence_picture(np.array([[0.0, 1.0]], np.float32)).tolist()
    [[[68, 1, 84], [253, 231, 37]]]
    """
    return np.asarray(cv2.applyColorMap((np.clip(influence, 0, 1) * 255).astype(np.uint8), cv2.COLORMAP_VIRIDIS)[:, :, ::-1])


def shrink(picture: Picture, longest: int) -> Picture:
    """Shrink a picture so that its longest side is at most `longest` pixels.

    Examples
    --------
    >>> shrink(np.zeros((300, 600, 3), np.uint8), 200).shape
    (100, 200, 3)
    """
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
