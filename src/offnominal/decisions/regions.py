"""Connected places of a map above a level, in pixels of the original image.

The image's score is the largest value of the same map, and the level is the same threshold. So an image has regions exactly
when it is flagged, and P(any region in a good image) is the false-alarm rate of images. The p-value of a region holds its peak
against the largest values of good images, so P(some region of a good image has a p-value of at most alpha) <= alpha, however
many there are (the maximum statistic of Westfall and Young 1993, section 2.3).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import ndimage

from offnominal.decisions.conformal import Calibration
from offnominal.types import Float, Mask, Region


def find_regions(scores: Float, calibration: Calibration, original: tuple[int, int]) -> tuple[Region, ...]:
    """8-connected regions of a working map (h, w) float32 where it exceeds the threshold, highest peak first.

    Boxes, areas and peaks are given in pixels of the `original` (H, W) image.
    """
    above = scores > np.float32(calibration.threshold)
    if not above.any():  # a good part, as nearly all are
        return ()
    labels, _ = ndimage.label(above, structure=np.ones((3, 3)))
    scale_y, scale_x = original[0] / scores.shape[0], original[1] / scores.shape[1]
    regions = []
    for number, place in enumerate(ndimage.find_objects(labels), 1):
        inside = labels[place] == number
        values = np.where(inside, scores[place], -np.inf)
        row, column = np.unravel_index(int(values.argmax()), values.shape)
        rows, columns = place
        regions.append(
            Region(
                box=(
                    int(columns.start * scale_x),
                    int(rows.start * scale_y),
                    min(original[1], int(np.ceil(columns.stop * scale_x))),
                    min(original[0], int(np.ceil(rows.stop * scale_y))),
                ),
                area=max(1, round(float(inside.sum()) * scale_x * scale_y)),
                peak=float(values[row, column]),
                p_value=calibration.p_value(float(values[row, column])),
                peak_at=(
                    min(original[1] - 1, int((columns.start + column + 0.5) * scale_x)),
                    min(original[0] - 1, int((rows.start + row + 0.5) * scale_y)),
                ),
            )
        )
    return tuple(sorted(regions, key=lambda region: -region.peak))


def region_masks(anomaly_map: Float, threshold: float, regions: Sequence[Region]) -> list[Mask]:
    """(H, W) booleans a region: the pixels where the map in original pixels lies above the threshold, each in one mask.

    A connected place of such pixels belongs to the region whose peak lies in it; of several, each pixel to the one with the
    nearest peak; where there is none, to the region whose box is nearest. The pixel of a region's peak is always in its mask.
    """
    labels, _ = ndimage.label(anomaly_map > threshold, structure=np.ones((3, 3)))
    masks = [np.zeros(labels.shape, np.bool_) for _ in regions]
    owners: dict[int, list[int]] = {}
    for at, region in enumerate(regions):
        x, y = region.peak_at
        owners.setdefault(int(labels[y, x]), []).append(at)
    for number, place in enumerate(ndimage.find_objects(labels), 1):
        rows, columns = np.nonzero(labels[place] == number)
        rows, columns = rows + place[0].start, columns + place[1].start
        here = owners.get(number) or [_nearest_box(float(columns.mean()), float(rows.mean()), regions)]
        away = [np.hypot(columns - regions[at].peak_at[0], rows - regions[at].peak_at[1]) for at in here]
        nearest = np.argmin(away, axis=0)
        for order, at in enumerate(here):
            masks[at][rows[nearest == order], columns[nearest == order]] = True
    for mask, region in zip(masks, regions, strict=True):
        mask[region.peak_at[1], region.peak_at[0]] = True
    return masks


def _nearest_box(x: float, y: float, regions: Sequence[Region]) -> int:
    """Which region's box is the nearest to a point."""
    away = []
    for region in regions:
        left, top, right, bottom = region.box
        away.append(np.hypot(max(left - x, 0, x - right), max(top - y, 0, y - bottom)))
    return int(np.argmin(away))
