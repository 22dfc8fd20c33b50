"""Connected regions of an anomaly map above the threshold, in pixels of the original image.

The image score is the maximum of the same map, so an image has regions exactly if it is flagged, and the probability of any
region in a good image is the false-alarm rate. The p-value of a region compares its peak with the image scores of good images,
so P(any region of a good image has a p-value <= alpha) <= alpha, whatever their number.

References
----------
Westfall and Young, "Resampling-based multiple testing", 1993, section 2.3 (maximum statistic).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from offnominal.decisions.calibration import Calibration
from offnominal.types import Float, Mask, Region

#: (n, 2) coordinates (x, y).
Points = npt.NDArray[Any]


def find_regions(
    scores: Float,
    calibration: Calibration,
    original: tuple[int, int],
    moved: Callable[[Points], Points] | None = None,
    magnified: float = 1.0,
) -> tuple[Region, ...]:
    """Find the 8-connected regions of a map above the threshold.

    Parameters
    ----------
    scores
        (h, w) float32 working map.
    calibration
        Calibration with the threshold.
    original
        (H, W) of the original image.
    moved
        Moves (n, 2) points (x, y) of the map, in pixels of the original, to the image: for maps of aligned images.
    magnified
        Area of the moved map, as a multiple of that of the map.

    Returns
    -------
    tuple of Region
        Regions in pixels of the original image, highest peak first.

    Examples
    --------
    >>> from offnominal.decisions import calibrate
    >>> scores = np.zeros((4, 4), np.float32)
    >>> scores[1, 2] = 9.0
    >>> (region,) = find_regions(scores, calibrate(np.array([1.0, 2.0, 3.0]), rate=0.25), original=(40, 40))
    >>> region.box, region.area, region.peak, region.p_value
    ((20, 10, 30, 20), 100, 9.0, 0.25)
    """
    above = scores > np.float32(calibration.threshold)
    if not above.any():
        return ()
    labels, _ = ndimage.label(above, structure=np.ones((3, 3)))
    scale = np.array([original[1] / scores.shape[1], original[0] / scores.shape[0]])
    limits = np.array(original[::-1])
    regions = []
    for label, (rows, columns) in enumerate(ndimage.find_objects(labels), 1):
        inside = labels[rows, columns] == label
        values = np.where(inside, scores[rows, columns], -np.inf)
        row, column = np.unravel_index(int(values.argmax()), values.shape)
        cells = np.argwhere(inside)[:, ::-1] + np.array([columns.start, rows.start])
        corners = np.concatenate([cells + np.array(corner) for corner in ((0, 0), (1, 0), (0, 1), (1, 1))]) * scale
        centre = (np.array([[columns.start + column, rows.start + row]]) + 0.5) * scale
        if moved is not None:
            corners, centre = moved(corners), moved(centre)
        low = np.clip(np.floor(corners.min(axis=0)), 0, limits - 1).astype(int).tolist()
        high = np.clip(np.ceil(corners.max(axis=0)), 1, limits).astype(int).tolist()
        x, y = np.clip(centre[0], 0, limits - 1).astype(int).tolist()
        regions.append(
            Region(
                box=(low[0], low[1], high[0], high[1]),
                area=max(1, round(float(inside.sum()) * float(scale.prod()) * magnified)),
                peak=float(values[row, column]),
                p_value=calibration.p_value(float(values[row, column])),
                peak_at=(x, y),
            )
        )
    return tuple(sorted(regions, key=lambda region: -region.peak))


def region_masks(anomaly_map: Float, threshold: float, regions: Sequence[Region]) -> list[Mask]:
    """Masks of the regions on the map in original pixels.

    Each pixel above the threshold belongs to one mask: of the region whose peak lies in the same connected area. If several
    peaks do, the nearest peak counts; if none does, the nearest box. The pixel of a region's peak is always in its mask.

    Parameters
    ----------
    anomaly_map
        (H, W) float32.
    threshold
        Decision threshold.
    regions
        Regions of the image, from `find_regions`.

    Returns
    -------
    list of array
        One (H, W) bool mask for each region.

    Examples
    --------
    >>> anomaly_map = np.array([[0.0, 5.0, 6.0], [0.0, 0.0, 0.0]], np.float32)
    >>> region = Region(box=(1, 0, 3, 1), area=2, peak=6.0, peak_at=(2, 0), p_value=0.01)
    >>> region_masks(anomaly_map, 4.0, [region])[0].astype(int)
    array([[0, 1, 1],
           [0, 0, 0]])
    """
    labels, _ = ndimage.label(anomaly_map > threshold, structure=np.ones((3, 3)))
    masks = [np.zeros(labels.shape, np.bool_) for _ in regions]
    owners: dict[int, list[int]] = {}
    for index, region in enumerate(regions):
        x, y = region.peak_at
        owners.setdefault(int(labels[y, x]), []).append(index)
    for label, box in enumerate(ndimage.find_objects(labels), 1):
        rows, columns = np.nonzero(labels[box] == label)
        rows, columns = rows + box[0].start, columns + box[1].start
        candidates = owners.get(label) or [_nearest_box(float(columns.mean()), float(rows.mean()), regions)]
        distances = [np.hypot(columns - regions[index].peak_at[0], rows - regions[index].peak_at[1]) for index in candidates]
        nearest = np.argmin(distances, axis=0)
        for order, index in enumerate(candidates):
            masks[index][rows[nearest == order], columns[nearest == order]] = True
    for mask, region in zip(masks, regions, strict=True):
        mask[region.peak_at[1], region.peak_at[0]] = True
    return masks


def _nearest_box(x: float, y: float, regions: Sequence[Region]) -> int:
    """Index of the region whose box is nearest to a point."""
    distances = []
    for region in regions:
        left, top, right, bottom = region.box
        distances.append(np.hypot(max(left - x, 0, x - right), max(top - y, 0, y - bottom)))
    return int(np.argmin(distances))
